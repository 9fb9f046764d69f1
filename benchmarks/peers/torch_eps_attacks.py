"""The PyTorch side of eps_attacks.py: nine attacks and Square in foolbox, torchattacks, ART and adv-lib.

Runs as a child process under the peers' Python; ``torch_server.py`` says how it is spoken to.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch_server import Craft, Server, Settings, art_classifier, batched, serve

TARGETED = {"tmifgsm": "given", "llc": "least", "rllc": "least", "illc": "least"}


def main() -> None:
    """Serve commands until stdin ends."""
    serve(lambda archive: Server(archive, ADAPTERS), __doc__)


def _goals(network: torch.nn.Module, attack: str) -> Callable[..., torch.Tensor]:
    """Return what gives the classes an attack is called with; the least likely one costs a forward pass."""

    def classes(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        kind = TARGETED.get(attack)
        if kind != "least":
            return labels if kind is None else targets
        with torch.no_grad():
            return network(x).argmin(1)

    return classes


def _foolbox(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Craft | None:
    """``run`` rather than ``__call__``: the latter adds a forward pass to report success."""
    from foolbox import Misclassification, PyTorchModel, TargetedMisclassification
    from foolbox import attacks as fa

    eps, step, steps = s["eps"], s.get("step_size"), s.get("steps")
    makers = {
        "fgsm": lambda: fa.LinfFastGradientAttack(),
        "bim": lambda: fa.LinfBasicIterativeAttack(abs_stepsize=step, steps=steps),
        "pgd": lambda: fa.LinfProjectedGradientDescentAttack(abs_stepsize=step, steps=steps),
        "umifgsm": lambda: _foolbox_momentum(s),
        # Its FGSM refuses targets; one step of BIM is the same attack.
        "llc": lambda: fa.LinfBasicIterativeAttack(abs_stepsize=eps, steps=1),
        "illc": lambda: fa.LinfBasicIterativeAttack(abs_stepsize=step, steps=steps),
        "tmifgsm": lambda: _foolbox_momentum(s),
    }
    if attack not in makers:
        return None
    method, model = makers[attack](), PyTorchModel(network, bounds=(0, 1), device="cpu")
    goal, criterion = (
        _goals(network, attack),
        TargetedMisclassification if attack in TARGETED else Misclassification,
    )
    return batched(
        batch, lambda x, y, t: method.run(model, x.contiguous(), criterion(goal(x, y, t)), epsilon=eps)
    )


def _foolbox_momentum(s: Settings) -> Any:
    from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod

    return LinfMomentumIterativeFastGradientMethod(
        momentum=s["decay"], abs_stepsize=s["step_size"], steps=s["steps"]
    )


def _torchattacks(
    network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int
) -> Craft | None:
    import torchattacks as ta

    eps, step, steps, alpha = s["eps"], s.get("step_size"), s.get("steps"), s.get("alpha")
    if attack in ("rfgsm", "rllc") and abs(eps - 2 * alpha) > 1e-6:
        return None  # its RFGSM has one size for the random and the gradient step
    makers = {
        "fgsm": lambda: ta.FGSM(network, eps=eps),
        "rfgsm": lambda: ta.RFGSM(network, eps=eps, alpha=alpha, steps=1),
        "bim": lambda: ta.BIM(network, eps=eps, alpha=step, steps=steps),
        "pgd": lambda: ta.PGD(network, eps=eps, alpha=step, steps=steps),
        "umifgsm": lambda: ta.MIFGSM(network, eps=eps, alpha=step, steps=steps, decay=s["decay"]),
        "square": lambda: ta.Square(
            network, eps=eps, n_queries=s["queries"], p_init=s["share"], loss="margin", resc_schedule=True
        ),
    }
    base = {"llc": "fgsm", "rllc": "rfgsm", "illc": "bim", "tmifgsm": "umifgsm"}.get(attack, attack)
    method = makers[base]()
    if TARGETED.get(attack) == "least":
        method.set_mode_targeted_least_likely(quiet=True)
    elif TARGETED.get(attack) == "given":
        method.set_mode_targeted_by_label(quiet=True)
    given = TARGETED.get(attack) == "given"
    return batched(batch, lambda x, y, t: method(x, t if given else y))


def _art(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Craft | None:
    """NumPy in and out is how ART is used; the conversion belongs to its time."""
    from art.attacks import evasion

    eps, step, steps, targeted = s["eps"], s.get("step_size"), s.get("steps"), attack in TARGETED
    base = {"llc": "fgsm", "illc": "bim", "tmifgsm": "umifgsm"}.get(attack, attack)
    common: dict[str, Any] = {"eps": eps, "targeted": targeted, "batch_size": batch}
    loop = {**common, "eps_step": step, "max_iter": steps, "verbose": False}
    makers = {
        "fgsm": lambda c: evasion.FastGradientMethod(c, **common),
        "bim": lambda c: evasion.BasicIterativeMethod(c, **loop),
        "pgd": lambda c: evasion.ProjectedGradientDescent(c, num_random_init=1, **loop),
        "umifgsm": lambda c: evasion.MomentumIterativeMethod(c, decay=s["decay"], **loop),
        "square": lambda c: evasion.SquareAttack(
            c, eps=eps, max_iter=s["queries"], p_init=s["share"], batch_size=batch, verbose=False
        ),
    }
    if base not in makers:
        return None
    goal = _goals(network, attack)
    classifier = cache(lambda shape: art_classifier(network, shape, classes))

    def craft(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = zip(x.split(batch), labels.split(batch), targets.split(batch), strict=True)
        wanted = torch.cat([goal(*part) for part in parts])
        method = makers[base](classifier(tuple(x.shape[1:])))
        return torch.from_numpy(method.generate(x.numpy(), wanted.numpy()))

    return craft


def _adv_lib(loss: str, extra: int) -> Callable[..., Craft | None]:
    """Its PGD tests each iterate before the step, so the last step counts only with one step more."""

    def adapter(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Craft | None:
        from adv_lib.attacks import pgd_linf

        if attack not in ("bim", "pgd", "illc"):
            return None
        goal = _goals(network, attack)
        return batched(
            batch,
            lambda x, y, t: pgd_linf(
                network, x, goal(x, y, t), s["eps"], targeted=attack in TARGETED, steps=s["steps"] + extra,
                random_init=attack == "pgd", absolute_step_size=s["step_size"], loss_function=loss,
            ),
        )  # fmt: skip

    return adapter


ADAPTERS: dict[str, Callable[..., Craft | None]] = {
    "foolbox": _foolbox,
    "torchattacks": _torchattacks,
    "art": _art,
    "adv_lib": _adv_lib("ce", 0),
    "adv_lib:dl+1": _adv_lib("dl", 1),
}

if __name__ == "__main__":
    main()

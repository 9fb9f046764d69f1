"""The PyTorch side of peers.py: a child process that attacks when it is told to.

Runs under a Python with torch, foolbox, torchattacks, adversarial-robustness-toolbox and adv-lib (any of
them may be missing; what is missing is reported, and why).  It reads one JSON command per line on stdin
and answers with one JSON line on the real stdout; whatever the libraries print goes to stderr.

adv-lib imports torchvision (for LPIPS) and visdom (for live plots) at import time, although no Linf attack
uses them.  Where they are not installed, empty stand-ins are put into ``sys.modules`` before adv-lib loads;
the attack compared here never touches them.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import sys
import time
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch_networks import load_network

Settings = dict[str, Any]  # eps, step_size, steps, alpha, decay: what the attack has
Craft = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # images, labels, targets -> AEs
DISTRIBUTIONS = {
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
    "adv_lib": "adv-lib",
}
TARGETED = {"tmifgsm": "given", "llc": "least", "rllc": "least", "illc": "least"}


def main() -> None:
    """Serve commands until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", help=".npz with network, images, labels, targets and weights")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    answers, _ = os.fdopen(os.dup(1), "w"), os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    server = Server(options.archive)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(server, f"do_{command.pop('do')}")(**command)
        except Exception as error:  # the parent reports it beside the row and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Server:
    """Holds network and images in one memory format, and answers the parent's commands."""

    def __init__(self, archive: str):
        with np.load(archive, allow_pickle=False) as arrays:
            weights = {name[2:]: arrays[name] for name in arrays.files if name.startswith("w:")}
            self.network = load_network(str(arrays["network"]), weights)
            self.images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
            self.labels = torch.from_numpy(arrays["labels"].astype(np.int64))
            self.targets = torch.from_numpy(arrays["targets"].astype(np.int64))
        self.loaded = {name: _import(name) for name in DISTRIBUTIONS}
        with torch.no_grad():
            self.classes = self.network(self.images[:1]).shape[1]

    def do_hello(self) -> dict[str, Any]:
        """Report versions, threads, and which library failed to import and why."""
        versions = {"torch": torch.__version__}
        for name, distribution in DISTRIBUTIONS.items():
            if self.loaded[name] is None:
                versions[name] = importlib.metadata.version(distribution)
        return {"versions": versions, "threads": torch.get_num_threads(),
                "missing": {name: why for name, why in self.loaded.items() if why}}  # fmt: skip

    def do_format(self, name: str) -> dict[str, Any]:
        """Bring weights and images to ``contiguous`` or ``channels_last`` memory."""
        memory = torch.channels_last if name == "channels_last" else torch.contiguous_format
        self.network = self.network.to(memory_format=memory)
        self.images = self.images.contiguous(memory_format=memory)
        return {"format": name}

    def do_logits(self, out: str, batch: int = 100) -> dict[str, Any]:
        """Write the logits of all images to ``out`` (.npy)."""
        with torch.no_grad():
            parts = [self.network(part) for part in self.images.split(batch)]
        np.save(out, torch.cat(parts).numpy())
        return {"out": out}

    def do_bare(self, batch: int, calls: int) -> dict[str, Any]:
        """Time ``calls`` bare gradients of one batch: forward, cross-entropy, autograd to the input."""
        x, labels = self.images[:batch].clone(), self.labels[:batch]
        started = time.perf_counter()
        for _ in range(calls):
            x.requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(self.network(x), labels, reduction="sum"), x)
        return {"seconds_per_image": (time.perf_counter() - started) / (calls * len(x))}

    def do_attack(
        self, library: str, attack: str, settings: Settings, batch: int, rows: int, seed: int, bare: int,
        times: int, out: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Attack the first ``rows`` images ``times`` times, with ``bare`` bare gradients before and after."""
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  ART draws its random starts from NumPy's global state
        craft = ADAPTERS[library](self.network, attack, settings, batch, self.classes)
        if craft is None:
            return {"lacks": True}
        x, labels, targets = self.images[:rows], self.labels[:rows], self.targets[:rows]
        if bare:  # torch picks its kernels at the first call
            craft(x[:batch], labels[:batch], targets[:batch])
        before = self.do_bare(batch, bare)["seconds_per_image"] if bare else 0.0
        started = time.perf_counter()
        for _ in range(times):
            x_adv = craft(x, labels, targets)
        seconds = (time.perf_counter() - started) / times
        after = self.do_bare(batch, bare)["seconds_per_image"] if bare else 0.0
        if out:
            np.save(out, x_adv.detach().contiguous().numpy().transpose(0, 2, 3, 1))
        return {"seconds_per_image": seconds / rows, "bare_per_image": (before + after) / 2}


def _import(name: str) -> str | None:
    """Import what the adapters need; return None, or why it failed."""
    if name == "adv_lib":
        _stand_in("torchvision", "models")
        _stand_in("visdom")
    modules = {"art": ["art.attacks.evasion"], "adv_lib": ["adv_lib.attacks"]}
    try:
        for module in modules.get(name, [name]):
            importlib.import_module(module)
    except ImportError as error:
        return f"{error} (pip install it into the peers' Python)"
    return None


def _stand_in(name: str, *attributes: str) -> None:
    """Put an empty module where a package is imported, not used, and not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        for attribute in attributes:
            setattr(module, attribute, types.ModuleType(f"{name}.{attribute}"))
        sys.modules[name] = module


def _goals(network: torch.nn.Module, attack: str) -> Callable[..., torch.Tensor]:
    """Return what gives the classes an attack is called with; the least likely one costs a forward pass."""

    def classes(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        kind = TARGETED.get(attack)
        if kind != "least":
            return labels if kind is None else targets
        with torch.no_grad():
            return network(x).argmin(1)

    return classes


def _batched(batch: int, craft: Craft) -> Craft:
    def run(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = zip(x.split(batch), labels.split(batch), targets.split(batch), strict=True)
        return torch.cat([craft(*part) for part in parts])

    return run


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
    return _batched(
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
    }
    base = {"llc": "fgsm", "rllc": "rfgsm", "illc": "bim", "tmifgsm": "umifgsm"}.get(attack, attack)
    method = makers[base]()
    if TARGETED.get(attack) == "least":
        method.set_mode_targeted_least_likely(quiet=True)
    elif TARGETED.get(attack) == "given":
        method.set_mode_targeted_by_label(quiet=True)
    given = TARGETED.get(attack) == "given"
    return _batched(batch, lambda x, y, t: method(x, t if given else y))


def _art(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Craft | None:
    """NumPy in and out is how ART is used; the conversion belongs to its time."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    eps, step, steps, targeted = s["eps"], s.get("step_size"), s.get("steps"), attack in TARGETED
    base = {"llc": "fgsm", "illc": "bim", "tmifgsm": "umifgsm"}.get(attack, attack)
    common: dict[str, Any] = {"eps": eps, "targeted": targeted, "batch_size": batch}
    loop = {**common, "eps_step": step, "max_iter": steps, "verbose": False}
    makers = {
        "fgsm": lambda c: evasion.FastGradientMethod(c, **common),
        "bim": lambda c: evasion.BasicIterativeMethod(c, **loop),
        "pgd": lambda c: evasion.ProjectedGradientDescent(c, num_random_init=1, **loop),
        "umifgsm": lambda c: evasion.MomentumIterativeMethod(c, decay=s["decay"], **loop),
    }
    if base not in makers:
        return None
    goal = _goals(network, attack)

    @cache
    def classifier(shape: torch.Size) -> Any:
        loss = torch.nn.CrossEntropyLoss()
        return PyTorchClassifier(
            network, loss, tuple(shape), classes, clip_values=(0.0, 1.0), device_type="cpu"
        )

    def craft(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = zip(x.split(batch), labels.split(batch), targets.split(batch), strict=True)
        wanted = torch.cat([goal(*part) for part in parts])
        method = makers[base](classifier(x.shape[1:]))
        return torch.from_numpy(method.generate(x.numpy(), wanted.numpy()))

    return craft


def _adv_lib(loss: str, extra: int) -> Callable[..., Craft | None]:
    """Its PGD tests each iterate before the step, so the last step counts only with one step more."""

    def adapter(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Craft | None:
        from adv_lib.attacks import pgd_linf

        if attack not in ("bim", "pgd", "illc"):
            return None
        goal = _goals(network, attack)
        return _batched(
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

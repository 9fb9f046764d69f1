"""The PyTorch side of searches.py: how the searches are called in foolbox, torchattacks, ART and adv-lib.

Runs as a child process under the peers' Python; ``torch_server.py`` says how it is spoken to.  What both
sides share is what the attack is about (confidence, beta, theta, gamma, eps, fooling rate, overshoot) and
its budget (steps, search steps, learning rate); everything else stays as the library documents it.
``art:documented`` is ART's DeepFool with its own overshoot.  ``original`` is DEEPSEC's algorithm
(``torch_original.py``).
"""

import inspect
import random
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch_original
from torch_server import Craft, Server, Settings, art_classifier, batched, serve

INTERNAL = ("batch_size", "verbose", "callback", "return_unsuccessful", "return_targets", "device")


class Plan(NamedTuple):
    """A search that is ready to run."""

    craft: Craft
    shown: str  # what is called, with all its settings


class SearchServer(Server):
    """A server that runs a search once, within a time limit, and keeps its images."""

    def __init__(self, archive: str):
        super().__init__(archive, SEARCHES)
        with np.load(archive, allow_pickle=False) as arrays:
            self.train = torch.from_numpy(arrays["train"].transpose(0, 3, 1, 2).copy())
        # The first step of the first optimiser imports half of torch: seconds that are no attack's.
        weight = torch.zeros(1, requires_grad=True)
        weight.sum().backward()
        torch.optim.Adam([weight]).step()

    def do_search(
        self, library: str, attack: str, settings: Settings, batch: int, rows: int, seed: int, bare: int,
        limit: int, out: str,
    ) -> dict[str, Any]:  # fmt: skip
        """Attack the first ``rows`` images (UAP: fit to the training images), bare gradients around it."""
        _seed(seed)
        plan = self.adapters[library](self.network, attack, settings, batch, self.classes)
        if plan is None:
            return {"lacks": True}
        universal = attack == "uap"
        x = self.train if universal else self.images[:rows]
        labels, targets = self.labels[: len(x)], self.targets[: len(x)]
        self.do_bare(batch, 2)  # torch picks its kernels at the first call
        before = self.do_bare(batch, bare)["seconds_per_image"]
        started = time.perf_counter()
        x_adv = _within(limit, lambda: plan.craft(x, labels, targets))
        seconds = time.perf_counter() - started
        after = self.do_bare(batch, bare)["seconds_per_image"]
        np.save(out, x_adv.detach().contiguous().numpy().transpose(0, 2, 3, 1))
        return {"seconds_per_image": seconds / len(x), "bare_per_image": (before + after) / 2,
                "settings": plan.shown}  # fmt: skip


def main() -> None:
    """Serve commands until stdin ends."""
    serve(SearchServer, __doc__)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  ART draws from the global states
    random.seed(seed)


def _within(limit: int, call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return what ``call`` returns, or raise TimeoutError after ``limit`` seconds; 0 means no limit."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {limit} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        return call()
    finally:
        signal.alarm(0)


def shown(maker: Callable[..., Any], given: dict[str, Any]) -> str:
    """Return the call with what we set, then the library's defaults for the rest."""
    parameters = inspect.signature(maker).parameters.values()
    rest = [
        f"{p.name}={p.default}"
        for p in parameters
        if p.default is not p.empty and p.name not in given and p.name not in INTERNAL
    ]
    ours = [f"{name}={value}" for name, value in given.items() if name not in INTERNAL]
    return f"{maker.__name__}({', '.join(ours)}" + (f"; as documented {', '.join(rest)})" if rest else ")")


def _foolbox(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Plan | None:
    from foolbox import Misclassification, PyTorchModel, TargetedMisclassification
    from foolbox import attacks as fa

    def search(step: str) -> dict[str, Any]:
        return {"binary_search_steps": s["search_steps"], "steps": s["steps"], step: s["learning_rate"],
                "confidence": s["confidence"]}  # fmt: skip

    calls: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
        "deepfool": lambda: (fa.L2DeepFoolAttack, {"steps": s["steps"], "overshoot": s["overshoot"]}),
        "cw2": lambda: (fa.L2CarliniWagnerAttack, search("stepsize")),
        "ead": lambda: (
            fa.EADAttack,
            {**search("initial_stepsize"), "regularization": s["beta"], "decision_rule": s["rule"].upper()},
        ),
    }
    if attack not in calls:
        return None
    maker, given = calls[attack]()
    method, model = maker(**given), PyTorchModel(network, bounds=(0, 1), device="cpu")

    def craft(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        goal = TargetedMisclassification(targets) if s["targeted"] else Misclassification(labels)
        return method.run(model, x.contiguous(), goal)

    return Plan(batched(batch, craft), shown(maker, given))


def _torchattacks(
    network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int
) -> Plan | None:
    import torchattacks as ta

    calls: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
        "deepfool": lambda: (ta.DeepFool, {"steps": s["steps"], "overshoot": s["overshoot"]}),
        "jsma": lambda: (ta.JSMA, {"theta": s["theta"], "gamma": s["gamma"]}),
        # One constant c, which is never searched for.
        "cw2": lambda: (ta.CW, {"kappa": s["confidence"], "steps": s["steps"], "lr": s["learning_rate"]}),
        "ead": lambda: (
            ta.EADEN if s["rule"] == "en" else ta.EADL1,
            {"kappa": s["confidence"], "lr": s["learning_rate"], "binary_search_steps": s["search_steps"],
             "max_iterations": s["steps"], "beta": s["beta"]},
        ),
    }  # fmt: skip
    if attack not in calls:
        return None
    maker, given = calls[attack]()
    method = maker(network, **given)
    if s["targeted"]:
        method.set_mode_targeted_by_label(quiet=True)
    craft = batched(batch, lambda x, y, t: method(x, t if s["targeted"] else y))
    return Plan(craft, shown(maker, given))


def _art(documented: bool) -> Callable[..., Plan | None]:
    """NumPy in and out is how ART is used; the conversion belongs to its time."""

    def adapter(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Plan | None:
        from art.attacks import evasion

        if documented and attack != "deepfool":
            return None

        def deepfool(steps: str) -> dict[str, Any]:
            return {"max_iter": s[steps], **({} if documented else {"epsilon": s["overshoot"]})}

        def search() -> dict[str, Any]:
            return {
                "confidence": s["confidence"], "targeted": s["targeted"], "max_iter": s["steps"],
                "binary_search_steps": s["search_steps"], "learning_rate": s["learning_rate"],
            }  # fmt: skip

        calls: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
            "deepfool": lambda: (evasion.DeepFool, deepfool("steps")),
            "jsma": lambda: (evasion.SaliencyMapMethod, {"theta": s["theta"], "gamma": s["gamma"]}),
            "uap": lambda: (
                evasion.UniversalPerturbation,
                {"attacker_params": {**deepfool("inner_steps"), "verbose": False}, "eps": s["eps"],
                 "delta": 1.0 - s["fooling_rate"], "max_iter": s["passes"]},
            ),
            "cw2": lambda: (evasion.CarliniL2Method, search()),
            "ead": lambda: (
                evasion.ElasticNet, {**search(), "beta": s["beta"], "decision_rule": s["rule"].upper()}
            ),
        }  # fmt: skip
        if attack not in calls:
            return None
        maker, given = calls[attack]()

        def craft(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            classifier = art_classifier(network, tuple(x.shape[1:]), classes)
            method = maker(classifier, **given, batch_size=batch, verbose=False)
            goal = None if attack == "uap" else (targets if s["targeted"] else labels).numpy()
            x_adv = method.generate(x.contiguous().numpy(), goal)
            return torch.from_numpy(method.noise if attack == "uap" else x_adv)

        return Plan(craft, shown(maker, given))

    return adapter


def _adv_lib(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Plan | None:
    from adv_lib.attacks import carlini_wagner_l2, df

    calls: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
        "deepfool": lambda: (df, {"steps": s["steps"], "overshoot": s["overshoot"]}),
        "cw2": lambda: (
            carlini_wagner_l2,
            {"confidence": s["confidence"], "learning_rate": s["learning_rate"], "targeted": s["targeted"],
             "binary_search_steps": s["search_steps"], "max_iterations": s["steps"]},
        ),
    }  # fmt: skip
    if attack not in calls:
        return None
    method, given = calls[attack]()
    craft = batched(batch, lambda x, y, t: method(network, x, t if s["targeted"] else y, **given))
    return Plan(craft, shown(method, given))


def _original(network: torch.nn.Module, attack: str, s: Settings, batch: int, classes: int) -> Plan | None:
    method = torch_original.ALGORITHMS.get(attack)
    if method is None or torch_original.TARGETED[attack] != s["targeted"]:
        return None
    craft = batched(batch, lambda x, y, t: method(network, x, t if s["targeted"] else y, s))
    unused = ("abort_early", "memory", "saliency")
    numbers = ", ".join(f"{name}={value}" for name, value in sorted(s.items()) if name not in unused)
    return Plan(craft, f"DEEPSEC's {attack} ({numbers})")


SEARCHES: dict[str, Callable[..., Plan | None]] = {
    "foolbox": _foolbox,
    "torchattacks": _torchattacks,
    "art": _art(documented=False),
    "art:documented": _art(documented=True),
    "adv_lib": _adv_lib,
    "original": _original,
}

if __name__ == "__main__":
    main()

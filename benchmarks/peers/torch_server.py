"""The child process that the comparisons with PyTorch libraries talk to: commands in, answers out.

Runs under the peers' Python: torch, and foolbox, torchattacks, adversarial-robustness-toolbox and adv-lib
(any of them may be missing; what is missing is reported, and why).  It reads one JSON command per line on
stdin and answers with one JSON line on the real stdout; whatever the libraries print goes to stderr.

adv-lib imports torchvision (for LPIPS) and visdom (for live plots) at import time, although no attack
compared here uses them.  Where they are not installed, empty stand-ins are put into ``sys.modules`` before
adv-lib loads.
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


def serve(make_server: "Callable[[str], Server]", description: str | None) -> None:
    """Serve commands until stdin ends.

    Args:
        make_server: archive -> server.
        description: of the script, for its help.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("archive", help=".npz with network, images, labels, targets and weights")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    answers, _ = os.fdopen(os.dup(1), "w"), os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    server = make_server(options.archive)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(server, f"do_{command.pop('do')}")(**command)
        except Exception as error:  # the parent reports it beside the row and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Server:
    """Holds network and images in one memory format, and answers the parent's commands."""

    def __init__(self, archive: str, adapters: dict[str, Callable[..., Any]]):
        self.adapters = adapters
        with np.load(archive, allow_pickle=False) as arrays:
            weights = {name[2:]: arrays[name] for name in arrays.files if name.startswith("w:")}
            self.network = load_network(str(arrays["network"]), weights)
            self.images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
            self.labels = torch.from_numpy(arrays["labels"].astype(np.int64))
            self.targets = torch.from_numpy(arrays["targets"].astype(np.int64))
        self.loaded = {name: import_library(name) for name in DISTRIBUTIONS}
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

    def do_bare(self, batch: int, calls: int, clock: str = "perf_counter") -> dict[str, Any]:
        """Time ``calls`` bare gradients of one batch: forward, cross-entropy, autograd to the input."""
        now = getattr(time, clock)
        x, labels = self.images[:batch].clone(), self.labels[:batch]
        started = now()
        for _ in range(calls):
            x.requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(self.network(x), labels, reduction="sum"), x)
        return {"seconds_per_image": (now() - started) / (calls * len(x))}

    def do_attack(
        self, library: str, attack: str, settings: Settings, batch: int, rows: int, seed: int, bare: int,
        times: int, out: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Attack the first ``rows`` images ``times`` times, with ``bare`` bare gradients before and after."""
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  ART draws its random starts from NumPy's global state
        craft = self.adapters[library](self.network, attack, settings, batch, self.classes)
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


def batched(batch: int, craft: Craft) -> Craft:
    """Return ``craft`` for any number of images, ``batch`` at a time."""

    def run(x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = zip(x.split(batch), labels.split(batch), targets.split(batch), strict=True)
        return torch.cat([craft(*part) for part in parts])

    return run


def art_classifier(network: torch.nn.Module, shape: tuple[int, ...], classes: int) -> Any:
    """Return the network as ART wants it, for images of ``shape`` (channels first)."""
    from art.estimators.classification import PyTorchClassifier

    loss = torch.nn.CrossEntropyLoss()
    return PyTorchClassifier(network, loss, shape, classes, clip_values=(0.0, 1.0), device_type="cpu")


def import_library(name: str) -> str | None:
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

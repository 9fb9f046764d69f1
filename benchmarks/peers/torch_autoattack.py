"""The official AutoAttack, image by image beside ours: what stays robust, gradients and forwards.

Runs under the peers' Python (torch, and a checkout of github.com/fra31/auto-attack).  ``autoattack.py``
writes the archive and asks on stdin, one line of JSON a turn: the first image and the one after the last.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_networks import load_network


class Plain(nn.Module):
    """Convolutions of stride 2, dense layers and ReLUs."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__()
        self.kernels = [torch.from_numpy(arrays[f"kernel{i}"]) for i in range(int(arrays["layers"]))]
        self.biases = [torch.from_numpy(arrays[f"bias{i}"]) for i in range(int(arrays["layers"]))]
        self.padding = [int(pad) for pad in arrays["padding"]]
        self.mean = torch.from_numpy(arrays["mean"]).reshape(1, -1, 1, 1)
        self.deviation = torch.from_numpy(arrays["deviation"]).reshape(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = (x - self.mean) / self.deviation
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if kernel.ndim == 4:
                x = F.conv2d(x, kernel, bias, stride=2, padding=self.padding[number])
            else:
                x = F.linear(x.flatten(1), kernel, bias)
            if number < len(self.kernels) - 1:
                x = F.relu(x)
        return x


class Counting(nn.Module):
    """A network that counts its calls, image by image."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.forwards = self.gradients = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        if torch.is_grad_enabled() and x.requires_grad:
            self.gradients += len(x)
        else:
            self.forwards += len(x)
        logits: torch.Tensor = self.network(x)
        return logits


def main() -> None:
    """Answer each line of stdin with one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--checkout", required=True)
    options = parser.parse_args()
    sys.path.insert(0, options.checkout)
    from autoattack import AutoAttack

    torch.set_num_threads(1)
    with np.load(options.archive) as stored:
        arrays: dict[str, Any] = dict(stored)
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w:")}
    made = load_network(str(arrays["network"]), weights) if weights else Plain(arrays).eval()
    network = Counting(made).eval()
    x = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    for line in sys.stdin:
        start, stop = json.loads(line)
        check(network, x[start:stop], arrays["logits"][start:stop])
        network.forwards = network.gradients = 0
        settings = {"version": "standard", "device": "cpu", "seed": 0, "verbose": False}
        attack = AutoAttack(network, norm="Linf", eps=float(arrays["eps"]), **settings)
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # it prints warnings, and stdout is for our JSON
            x_adv = attack.run_standard_evaluation(x[start:stop], labels[start:stop], bs=stop - start)
        seconds = time.perf_counter() - started
        calls = {"gradients": network.gradients, "forwards": network.forwards}
        with torch.no_grad():
            robust = network(x_adv).argmax(1) == labels[start:stop]
        mean = {key: [count / (stop - start)] * (stop - start) for key, count in calls.items()}
        print(
            json.dumps({"robust": robust.tolist(), "seconds": seconds, "compile_seconds": 0.0, **mean}),
            flush=True,
        )


def check(network: nn.Module, x: torch.Tensor, logits: np.ndarray) -> None:
    """Stop where the PyTorch network answers otherwise than ours."""
    with torch.no_grad():
        difference = float((network(x) - torch.from_numpy(logits)).abs().max())
    if not difference <= 1e-3 * max(1.0, float(np.abs(logits).max())):
        raise SystemExit(f"the PyTorch network differs from ours by {difference:.2g}: nothing to compare")


if __name__ == "__main__":
    main()

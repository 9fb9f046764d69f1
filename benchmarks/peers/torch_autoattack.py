"""The official AutoAttack on a network of the oracles, beside ours: robust accuracy, gradients and forwards.

Runs under the peers' Python (torch, and a checkout of github.com/fra31/auto-attack).  The images are those of
``oracles.py``, which ``autoattack.py`` exports.

    peers/bin/python torch_autoattack.py ARCHIVE --checkout auto-attack
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    """Convolutions of stride 2, dense layers and ReLUs; counts its calls, image by image."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__()
        self.kernels = [torch.from_numpy(arrays[f"kernel{i}"]) for i in range(int(arrays["layers"]))]
        self.biases = [torch.from_numpy(arrays[f"bias{i}"]) for i in range(int(arrays["layers"]))]
        self.padding = [int(pad) for pad in arrays["padding"]]
        self.mean = torch.from_numpy(arrays["mean"]).reshape(1, -1, 1, 1)
        self.deviation = torch.from_numpy(arrays["deviation"]).reshape(1, -1, 1, 1)
        self.forwards = self.gradients = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        if torch.is_grad_enabled() and x.requires_grad:
            self.gradients += len(x)
        else:
            self.forwards += len(x)
        x = (x - self.mean) / self.deviation
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if kernel.ndim == 4:
                x = F.conv2d(x, kernel, bias, stride=2, padding=self.padding[number])
            else:
                x = F.linear(x.flatten(1), kernel, bias)
            if number < len(self.kernels) - 1:
                x = F.relu(x)
        return x


def main() -> None:
    """Attack, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    sys.path.insert(0, options.checkout)
    from autoattack import AutoAttack

    torch.set_num_threads(1)
    with np.load(options.archive) as stored:
        arrays = dict(stored)
    network = Network(arrays).eval()
    x = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    with torch.no_grad():
        logits = network(x)
    if float((logits - torch.from_numpy(arrays["logits"])).abs().max()) > 1e-3:
        raise SystemExit("the PyTorch network differs from ours: nothing to compare")
    network.forwards = network.gradients = 0
    settings = {"version": "standard", "device": "cpu", "seed": 0, "verbose": False}
    attack = AutoAttack(network, norm="Linf", eps=float(arrays["eps"]), **settings)
    started = time.perf_counter()
    x_adv = attack.run_standard_evaluation(x, labels, bs=options.batch)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        robust = network(x_adv).argmax(1) == labels
    print(json.dumps({
        "n": len(x), "clean": float((logits.argmax(1) == labels).float().mean()),
        "robust": float(robust.float().mean()), "gradients": network.gradients / len(x),
        "forwards": network.forwards / len(x), "seconds": seconds,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

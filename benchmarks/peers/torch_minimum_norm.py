"""The PyTorch side of minimum_norm.py: adv-lib's searches for the smallest change, each into one file.

Runs under the peers' Python.  Images are attacked in batches; an attack whose file exists is not run again.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_networks import load_network
from torch_server import import_library

Search = Callable[..., torch.Tensor]


def searches(steps: int) -> dict[str, Search]:
    """Return adv-lib's searches by name; each takes the model, images and labels, and ``steps`` gradients."""
    import_library("adv_lib")
    from adv_lib import attacks
    from adv_lib.attacks.primal_dual_gradient_descent import pdgd, pdpgd

    infinity = float("inf")
    return {
        "fmn@l0": partial(attacks.fmn, norm=0, steps=steps),
        "fmn@l1": partial(attacks.fmn, norm=1, steps=steps),
        "fmn@l2": partial(attacks.fmn, norm=2, steps=steps),
        "fmn@linf": partial(attacks.fmn, norm=infinity, steps=steps, α_init=10.0),
        "pdpgd@l0": partial(pdpgd, norm=0, proximal_operator=23, num_steps=steps),
        "pdpgd@l1": partial(pdpgd, norm=1, num_steps=steps),
        "pdgd@l2": partial(pdgd, num_steps=steps),
        "pdpgd@linf": partial(pdpgd, norm=infinity, num_steps=steps),
        "ddn@l2": partial(attacks.ddn, steps=steps, levels=None),
        "sigmazero@l0": partial(attacks.sigma_zero, num_steps=steps),
    }


def main() -> None:
    """Run the attacks and write their images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help=".npz of minimum_norm.py")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with np.load(options.archive, allow_pickle=False) as arrays:
        weights: dict[str, Any] = {name[2:]: arrays[name] for name in arrays.files if name.startswith("w:")}
        network = load_network(str(arrays["network"]), weights)
        images = torch.from_numpy(arrays["images"].transpose(0, 3, 1, 2).copy())
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    folder = options.archive.parent
    with torch.no_grad():
        logits = torch.cat([network(part) for part in images.split(options.batch)])
    np.save(folder / "logits.npy", logits.numpy())
    for name, search in searches(options.steps).items():
        path = folder / f"theirs-{name}-{options.steps}.npy"
        if path.exists():
            continue
        started = time.perf_counter()
        parts = zip(images.split(options.batch), labels.split(options.batch), strict=True)
        x_adv = torch.cat([search(network, part, truth).detach() for part, truth in parts])
        np.save(path, x_adv.contiguous().numpy().transpose(0, 2, 3, 1))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

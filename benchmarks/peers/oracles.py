"""Attacks on networks whose robustness a solver has decided image by image, or has been published.

An attack that breaks an image that is proven robust is wrong, or its judge is; one that misses an image with
a proven counterexample is weak.  ``--oracles`` names a folder with ``oracles.json`` and the networks'
``.npz``.

Indices there are those of the MNIST files of Yann LeCun; TFDS holds the same images in another order, and
``mnist_raw_to_tfds_index.npy`` leads from one to the other.  TFDS's CIFAR-10 went through JPEG, so its
networks are asked about the folder's own images.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.results import table, write_json
from deepsec_jax import data
from deepsec_jax.attacks import APGD, FAB, FMN, AutoAttack, BasinHopping, RayS, Square, Within, losses
from deepsec_jax.attacks.parts import at_input
from deepsec_jax.evaluation.cascade import run_cascade
from deepsec_jax.pytree import Struct, static

ATTACKS = ("ce", "aimed", "nearest", "fab", "fmn", "square", "rays", "hopping", "fast", "standard", "plus")


def main() -> None:
    """Attack, judge, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--oracles", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=None, help="default all")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--n", type=int, default=500, help="images where there is no verdict for single ones")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--key", type=int, default=0, help="of all random numbers")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    known = json.loads((options.oracles / "oracles.json").read_text())
    mnist = Mnist(options.oracles, options.data_dir)
    rows: list[list[Any]] = []
    for name in options.networks or list(known):
        model = network(options.oracles, name, known[name])
        for case in cases(options.oracles, name, known[name], mnist, options.n):
            for attack in options.attacks:
                rows.append([*case.about(), attack, *score(model, case, attack, options.batch, options.key)])
                print(rows[-1], flush=True)
    head = [
        "network", "eps", "n", "proven robust", "proven breakable", "said of it", "attack", "robust broken",
        "breakable found", "others fallen", "clean, %", "robust, %", "gradients", "forwards",
    ]  # fmt: skip
    write_json(options.out, "oracles", {"head": head, "rows": rows, "key": options.key})
    print(table(head, rows))
    if any(row[7] for row in rows):
        raise SystemExit("an image that is proven robust was broken: an attack or the judge is wrong")


@dataclass(frozen=True)
class Case:
    """A network's images at one eps.

    Attributes:
        name: of the network.
        eps: radius in L-inf.
        images: float32 [N, H, W, C].
        labels: int32 [N].
        robust: which are proven robust, bool [N].
        breakable: which have a proven counterexample, bool [N].
        said: what is published of all, in words.
    """

    name: str
    eps: float
    images: np.ndarray
    labels: np.ndarray
    robust: np.ndarray
    breakable: np.ndarray
    said: str = ""

    def about(self) -> list[Any]:
        """Return the first columns of a row."""
        return [
            self.name, self.eps, len(self.labels), int(self.robust.sum()), int(self.breakable.sum()),
            self.said,
        ]  # fmt: skip


@dataclass
class Mnist:
    """MNIST's test images by their number in the original files; read when they are asked for."""

    oracles: Path
    data_dir: str | None
    test: Any = field(default=None)

    def take(self, raw: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels."""
        if self.test is None:
            self.test = data.load("mnist", data_dir=self.data_dir).test
        rows = np.load(self.oracles / "mnist_raw_to_tfds_index.npy")[np.asarray(raw)]
        part = self.test.take(rows)
        return data.unit_images(np.asarray(part.images)), np.asarray(part.labels, np.int32)


def cases(folder: Path, name: str, about: dict[str, Any], mnist: Mnist, n: int) -> list[Case]:
    """Return what is known of a network, one case per eps."""
    if about["dataset"] != "mnist":
        with np.load(folder / "sdp_cifar.npz") as stored:
            images, labels = stored["x"][:n].astype(np.float32) / 255, stored["y"][:n].astype(np.int32)
        none = np.zeros(len(labels), bool)
        return [Case(name, 2 / 255, images, labels, none, none)]
    if "verdict_by_eps_and_raw_index" in about:
        found = []
        for eps, verdicts in about["verdict_by_eps_and_raw_index"].items():
            images, labels = mnist.take([int(raw) for raw in verdicts])
            said = np.array(list(verdicts.values()))
            found.append(Case(name, float(eps), images, labels, said == "UNSAT", said == "SAT"))
        return found
    robust, breakable = about.get("robust_raw_index", []), about.get("breakable_raw_index", [])
    raw = [*robust, *breakable] or list(range(n))
    images, labels = mnist.take(raw)
    published = {
        key: about[key]
        for key in ("autoattack_acc", "pgd_acc", "error_between", "clean_errors")
        if key in about
    }
    said = ", ".join(f"{key} {value}" for key, value in published.items())
    return [
        Case(
            name, float(about["eps"]), images, labels,
            np.isin(raw, robust), np.isin(raw, breakable), said,
        )
    ]  # fmt: skip


def score(model: Any, case: Case, attack: str, batch: int, key: int) -> list[Any]:
    """Return the last columns of a row; the random numbers are those of ``key``."""
    made = run_cascade(
        attacks_of(attack, case.eps), model, case.images, case.labels,
        key=jax.random.key(key), batch_size=batch,
    )  # fmt: skip
    if float(np.abs(made.x_adv - case.images).max()) > case.eps + 1e-6:
        raise SystemExit(f"{attack} left the ball of {case.eps}")
    fell, wrong = made.fooled >= 1, made.by == -2
    others = fell & ~case.robust & ~case.breakable & ~wrong
    return [
        int((fell & case.robust).sum()), int((fell & case.breakable).sum()), int(others.sum()),
        100.0 * float(np.mean(~wrong)), 100.0 * float(np.mean(~fell)),
        float(made.gradients.mean()), float(made.forwards.mean()),
    ]  # fmt: skip


def attacks_of(name: str, eps: float) -> list[Any]:
    """Return the attacks of a row, one after the other on what is left."""
    if name in ("fast", "standard", "plus"):
        return list(AutoAttack(eps=eps, version=name).members(10))
    near = APGD(eps=eps, aims=5, nearest=True, aimed=losses.margin_to)
    single: dict[str, Any] = {
        "ce": APGD(eps=eps, start=at_input),
        "aimed": APGD(eps=eps, aims=9),
        "nearest": near,
        "hopping": BasinHopping(eps=eps, hops=250, start=near),
        "fab": Within(FAB(norm="linf"), eps),
        "fmn": Within(FMN(norm="linf"), eps),
        "square": Square(eps=eps, queries=5000),
        "rays": Within(RayS(enough=eps), eps),
    }
    return [single[name]]


class Network(Struct):
    """A network of convolutions, dense layers and ReLUs, as PyTorch lays it out.

    Attributes:
        kernels: of each layer, [H, W, in, out] or [in, out].
        biases: [out].
        padding: of each convolution, static; their stride is 2.
        mean: of the channels, taken from the image before the first layer.
        deviation: of the channels, by which it is divided.
    """

    kernels: tuple[Any, ...]
    biases: tuple[Any, ...]
    padding: tuple[int, ...] = static(())
    mean: Any = 0.0
    deviation: Any = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits."""
        x = (x - self.mean) / self.deviation
        last = len(self.kernels) - 1
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if kernel.ndim == 4:
                pad = self.padding[number]
                x = lax.conv_general_dilated(
                    x, kernel, (2, 2), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            else:
                if x.ndim == 4:
                    x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)  # channels first, as torch
                x = x @ kernel
            x = x + bias if number == last else jax.nn.relu(x + bias)
        return x


def network(folder: Path, name: str, about: dict[str, Any]) -> Network:
    """Return a network of the folder."""
    with np.load(folder / f"{name}.npz") as stored:
        if "W1" in stored.files:  # row-major, [in, out]
            return Network(
                tuple(jnp.asarray(stored[key]) for key in ("W1", "W2")),
                tuple(jnp.asarray(stored[key]) for key in ("B1", "B2")),
            )
        names = sorted(
            (key.removesuffix("weight") for key in stored.files if key.endswith("weight")), key=_number
        )
        kernels = [
            stored[f"{key}weight"].transpose((2, 3, 1, 0) if stored[f"{key}weight"].ndim == 4 else (1, 0))
            for key in names
        ]
        biases = [stored[f"{key}bias"] for key in names]
    padding = tuple((kernel.shape[0] - 1) // 2 for kernel in kernels if kernel.ndim == 4)
    mean, deviation = about.get("mean", 0.0), about.get("std", 1.0)
    if name.startswith("colt"):
        mean, deviation = 0.1307, 0.3081
    return Network(
        tuple(map(jnp.asarray, kernels)), tuple(map(jnp.asarray, biases)), padding,
        jnp.asarray(mean, jnp.float32), jnp.asarray(deviation, jnp.float32),
    )  # fmt: skip


def _number(key: str) -> int:
    return next(int(part) for part in key.split("/") if part.isdigit())


if __name__ == "__main__":
    main()

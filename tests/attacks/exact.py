"""The oracle that scripts/make_oracle.py has made: small ReLU networks, images, exact distances."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.pytree import Struct

TABLE = Path(__file__).parent.parent / "oracles" / "digits.npz"
NETWORKS = ("plain", "robust", "deep")
NORMS = ("linf", "l1", "l0")
ROUNDING = {"linf": 1e-5, "l1": 1e-4, "l0": 0.5}
"""What float32 logits and the solver's tolerance, 1e-6 of a logit, are worth in distance."""


class ReLUs(Struct):
    """A network of dense layers.

    Attributes:
        layers: weights [in, out] and bias of each.
    """

    layers: tuple

    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for weights, bias in self.layers[:-1]:
            x = jax.nn.relu(x @ weights + bias[None])
        return x @ self.layers[-1][0] + self.layers[-1][1][None]


@dataclass(frozen=True)
class Exact:
    """A network with images that it gets right.

    Attributes:
        model: the network.
        images: float32 [N, 8, 8, 1].
        labels: int32 [N].
        lower: norm -> the solver's bound: no closer image is misclassified, [N].
        upper: norm -> distance of an image that is, [N].
    """

    model: ReLUs
    images: np.ndarray
    labels: np.ndarray
    lower: dict[str, np.ndarray]
    upper: dict[str, np.ndarray]

    def first(self, n: int) -> "Exact":
        """Return the same for fewer images."""
        cut = {name: {norm: v[:n] for norm, v in getattr(self, name).items()} for name in ("lower", "upper")}
        return Exact(self.model, self.images[:n], self.labels[:n], **cut)


def load(name: str, path: Path = TABLE) -> Exact:
    """Return the network of that name."""
    with np.load(path) as table:
        depth = sum(key.startswith(f"{name}/weights") for key in table.files)
        layers = tuple(
            (jnp.asarray(table[f"{name}/weights{i}"]), jnp.asarray(table[f"{name}/bias{i}"]))
            for i in range(depth)
        )
        bounds = {end: {norm: table[f"{name}/{norm}_{end}"] for norm in NORMS} for end in ("lower", "upper")}
        return Exact(ReLUs(layers), table[f"{name}/images"], table[f"{name}/labels"], **bounds)


def distances(x: np.ndarray, x_adv: np.ndarray) -> dict[str, np.ndarray]:
    """Return the distance of each image in each norm, float64 [N]."""
    change = np.abs(np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).reshape(len(x), -1)
    return {"linf": change.max(axis=1), "l1": change.sum(axis=1), "l0": np.sum(change > 0, axis=1)}


def violations(exact: Exact, x_adv: np.ndarray, success: np.ndarray) -> dict[str, np.ndarray]:
    """Return norm -> images said to be misclassified and closer than any misclassified image is, bool [N]."""
    found = distances(exact.images, x_adv)
    return {norm: success & (found[norm] < exact.lower[norm] - ROUNDING[norm]) for norm in NORMS}

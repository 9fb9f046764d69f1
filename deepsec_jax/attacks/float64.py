"""Float64 images from NumPy while jax works in float32: host code, used by run_in_batches and UAP.fit.

The attack sees them rounded, by half an ulp of float32 at most, and its sums are rounded once more.  So the
ball it works in is smaller by as much, and what it leaves alone is given back as it came.
"""

import math
from typing import Any, TypeVar

import jax
import numpy as np

from deepsec_jax.attacks.per_image import is_model

T = TypeVar("T")

BUDGETS = ("eps", "largest")

SLACK = 2.0**-24
"""Of one entry: half an ulp below 1 for the clean value, and half an ulp for the sum."""


def is_rounded(x: Any) -> bool:
    """Tell whether jax will hold these images of NumPy in a coarser dtype."""
    dtype = getattr(x, "dtype", None)
    return dtype == np.float64 and jax.dtypes.canonicalize_dtype(dtype) != dtype


def narrowed(attack: T, shape: tuple[int, ...]) -> T:
    """Return the attack, and those it holds, with every budget less by what rounding may add to a distance.

    Args:
        attack: an attack.
        shape: of an image, [H, W, C].
    """

    def has_budget(part: Any) -> bool:
        return not is_model(part) and any(hasattr(part, name) for name in BUDGETS)

    def part_of(part: Any) -> Any:
        return narrowed(part, shape) if has_budget(part) else part

    # The attacks inside first: a leaf of this map is one with a budget of its own.
    inner: Any = jax.tree.map(
        part_of, attack, is_leaf=lambda part: part is not attack and (has_budget(part) or is_model(part))
    )
    size = math.prod(shape)
    entries = {"l0": 0.0, "l1": size, "l2": math.sqrt(size)}.get(getattr(inner, "norm", "linf"), 1.0)
    changes = {}
    for name in BUDGETS:
        if hasattr(inner, name):
            asked = np.asarray(getattr(inner, name), np.float64)
            less = np.maximum(asked - entries * SLACK, 0.0).astype(np.float32)
            changes[name] = np.nextafter(less, np.float32(0))  # the nearest float32 may lie above
            if hasattr(inner, "alpha"):  # a half stays a half
                ratio = np.asarray(inner.alpha, np.float64) / np.where(asked > 0, asked, 1.0)
                changes["alpha"] = (ratio * changes[name]).astype(np.float32)
    result: T = inner.replace(**changes) if changes else inner
    return result


def as_given(x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return float32 ``x_adv`` in the dtype of ``x``; entries that did not change are x's own."""
    return np.where(x_adv == x.astype(x_adv.dtype), x, x_adv.astype(x.dtype))

"""Float64 images from NumPy while jax computes in float32: host code for run_in_batches and UAP.fit.

The attack gets the images rounded to float32, by at most half an ulp, and its sums are rounded again.  So its
ball is reduced by these errors.  Entries that it does not change are returned unchanged.
"""

import math
from typing import Any, TypeVar

import jax
import numpy as np

from deepsec_jax.attacks.per_image import is_model

T = TypeVar("T")

BUDGETS = ("eps", "largest")

SLACK = 2.0**-24
"""For one entry: half an ulp below 1 for the clean value, and half an ulp for the sum."""


def is_rounded(x: Any) -> bool:
    """Tell whether jax stores these NumPy images in a less precise dtype."""
    dtype = getattr(x, "dtype", None)
    return dtype == np.float64 and jax.dtypes.canonicalize_dtype(dtype) != dtype


def narrowed(attack: T, shape: tuple[int, ...]) -> T:
    """Return the attack and its inner attacks with every budget reduced by the largest rounding error.

    Args:
        attack: an attack.
        shape: of an image, [H, W, C].
    """

    def has_budget(part: Any) -> bool:
        return not is_model(part) and any(hasattr(part, name) for name in BUDGETS)

    def part_of(part: Any) -> Any:
        return narrowed(part, shape) if has_budget(part) else part

    # Inner attacks first: a leaf of this map is an attack with its own budget.
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
            changes[name] = np.nextafter(less, np.float32(0))  # the nearest float32 may be larger
            if hasattr(inner, "alpha"):  # 0.5 stays 0.5
                ratio = np.asarray(inner.alpha, np.float64) / np.where(asked > 0, asked, 1.0)
                changes["alpha"] = (ratio * changes[name]).astype(np.float32)
    result: T = inner.replace(**changes) if changes else inner
    return result


def as_given(x_adv: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return float32 ``x_adv`` in the dtype of ``x``; unchanged entries are those of ``x``."""
    return np.where(x_adv == x.astype(x_adv.dtype), x, x_adv.astype(x.dtype))

"""Hyperparameters as float32, so that 0.3, ``np.float64(0.3)`` and 1 share a compile."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.per_image import map_per_image
from deepsec_jax.randomness import is_key


def one_float_kind(attack: Any, images: Any = jnp.float32) -> Any:
    """Return the attack with all numbers as float32; a model inside it (a surrogate) is not changed.

    Args:
        attack: an attack.
        images: dtype of the images.  With float64 images numbers are rounded towards 0: the nearest float32
            to 0.1 is larger than 0.1, and no image may leave the ball of the requested eps.
    """
    rounded = functools.partial(_float32, towards_0=np.dtype(images).itemsize > 4)
    return map_per_image(rounded, attack, lambda leaf: rounded(leaf) if _is_scalar(leaf) else leaf)


def _is_scalar(leaf: Any) -> bool:
    if isinstance(leaf, int | float | np.generic):
        return True
    return isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 0 and not is_key(leaf)


def _float32(value: Any, *, towards_0: bool) -> Any:
    nearest = value.astype(np.float32) if hasattr(value, "astype") else np.float32(value)
    if not towards_0:
        return nearest
    lib: Any = jnp if isinstance(value, jax.Array) else np
    farther = abs(nearest.astype(np.float64)) > abs(value)
    return lib.where(farther, lib.nextafter(nearest, np.float32(0)), nearest)

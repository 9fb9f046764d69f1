"""Gaussian blur."""

import jax.numpy as jnp
import numpy as np

from deepsec_jax.protocols import Images


def gaussian_blur(x: Images, sigma: float = 0.5, *, radius: int = 2) -> Images:
    """Blur each channel with a normalised Gaussian of ``2 * radius + 1`` pixels a side.

    Edges are repeated outwards, as Pillow does and ``scipy.ndimage.gaussian_filter(mode="nearest")``.

    Args:
        x: images [B, H, W, C] in [0, 1].
        sigma: standard deviation in pixels, above 0; static.
        radius: pixels on each side of the centre, static.
    """
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (radius, radius)
        padded = jnp.pad(x, widths, mode="edge")
        size = x.shape[axis]
        parts = [
            jnp.asarray(weight, x.dtype) * _from(padded, axis, shift, size)
            for shift, weight in enumerate(weights)
        ]
        x = sum(parts[1:], parts[0])
    return x


def _from(x: Images, axis: int, first: int, size: int) -> Images:
    return x[:, first : first + size] if axis == 1 else x[:, :, first : first + size]

"""Sums over a small square window around each pixel, as exact sums of shifted images without convolution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images


def window_sum(images: tuple[Images, ...], size: int, term: Callable[..., Images]) -> Images:
    """Sum ``term(*shifted)`` over each ``size`` x ``size`` window inside the image.

    Args:
        images: arrays [B, H, W, C], shifted together.
        size: side of the window.
        term: function of the shifted arrays [B, H - size + 1, W - size + 1, C]; its values are summed.
    """
    height, width = images[0].shape[1] - size + 1, images[0].shape[2] - size + 1
    total: Images = jnp.zeros((images[0].shape[0], height, width, images[0].shape[3]), jnp.float32)
    for row in range(size):
        for column in range(size):
            total = total + term(*(image[:, row : row + height, column : column + width] for image in images))
    return total


def window_mean(image: Images, size: int) -> jax.Array:
    """Return the mean over each window, [B, H - size + 1, W - size + 1, C]."""
    return window_sum((image,), size, lambda part: part) / size**2

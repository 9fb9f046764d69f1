"""``--batch-size auto``: a fixed size on the CPU, on an accelerator as much as memory permits."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal


class BatchSizeError(ValueError):
    """Not even one image fits into memory; one line with the remedy."""


_CPU_BATCH = 64
_CPU_VALUES = 32 * 32 * 3
"""On a CPU batches of 16 to 64 small images are as fast per image as hundreds; use fewer larger images."""

_SMALLEST, _LARGEST = 16, 4096


def choose(size: int | Literal["auto"], model: Any, image_shape: Sequence[int], n: int) -> int:
    """Return images per call.

    ``auto`` is at most :func:`on_cpu` if jax computes on the CPU, in batches of equal size.  Elsewhere it is
    half of the largest batch for which one gradient fits into memory.

    Args:
        size: a number, or ``auto``.
        model: the model under attack.
        image_shape: height, width, channels.
        n: number of images, the maximum.
    """
    if size != "auto":
        return size
    import jax

    if jax.default_backend() == "cpu":
        return equal_parts(n, on_cpu(image_shape))
    return largest_fitting(lambda rows: _gradient_fits(model, image_shape, rows), n)


def on_cpu(image_shape: Sequence[int]) -> int:
    """Return 64 for images of up to 32 x 32 x 3 values, proportionally fewer for larger ones, at least 1."""
    return max(1, min(_CPU_BATCH, _CPU_BATCH * _CPU_VALUES // math.prod(image_shape)))


def equal_parts(n: int, most: int) -> int:
    """Return a size of at most ``most`` with which the last batch needs little padding.

    100 images in batches of at most 64 are two of 50, not two of 64.
    """
    return math.ceil(n / math.ceil(n / most)) if n else 1


def largest_fitting(fits: Callable[[int], bool], n: int) -> int:
    """Double from 16 until memory is exhausted, or 4096 or ``n`` is reached; halve if 16 is too large.

    An attack and its metrics need more memory than one gradient, so half of the largest fitting batch is
    used.

    Args:
        fits: whether a batch of this many images fits.
        n: number of images.

    Raises:
        BatchSizeError: not even one image fits.
    """
    most = min(_LARGEST, n)
    size, refused = min(_SMALLEST, most), False
    while not fits(size):
        if size == 1:
            raise BatchSizeError("not even one image's gradient fits into memory: take a smaller model")
        size, refused = size // 2, True
    while not refused and size < most:
        following = min(2 * size, most)
        refused = not fits(following)
        size = size if refused else following
    return max(1, size // 2) if refused else size


def _gradient_fits(model: Any, image_shape: Sequence[int], rows: int) -> bool:
    import jax
    import jax.numpy as jnp

    from deepsec_jax.evaluation.measured import bare_gradient_seconds

    images, labels = jnp.zeros((rows, *image_shape)), jnp.zeros(rows, jnp.int32)
    try:
        bare_gradient_seconds(model, images, labels, repeats=1)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return False
        raise
    return True

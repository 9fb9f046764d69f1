"""Rounding to the grey levels of an image file."""

import jax.numpy as jnp

from deepsec_jax.protocols import Images


def to_levels(x: Images, bits: int = 8) -> Images:
    """Round images to ``2**bits`` levels.

    Args:
        x: images [B, H, W, C] in [0, 1].
        bits: 1 to 16; PNG and uint8 have 8.

    Returns:
        Images of the same shape and dtype; a value halfway is rounded to the even level, as in NumPy.
    """
    highest = jnp.asarray(2**bits - 1, x.dtype)
    return jnp.round(x * highest) / highest

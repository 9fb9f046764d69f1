"""The median filter with a window of 2 x 2 pixels."""

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images


@jax.jit
def median_2x2(x: Images) -> Images:
    """Return, for every pixel, the median of it, the one above, the one to its left and the one between.

    Each channel for itself.  An even window has no middle: taken is the upper of the two, the second largest
    of the four.  The first row and column are repeated outwards.  This is what
    ``scipy.ndimage.median_filter(size=2)`` does, bit for bit, and what feature squeezing's authors call.

    Differentiable almost everywhere: every pixel moves with the one that it was taken from, and with equal
    ones by half.

    Args:
        x: images [B, H, W, C] in [0, 1].

    Returns:
        Images of the same shape and dtype.
    """
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")
    corner, above, left = padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1]
    low, high = jnp.minimum(corner, above), jnp.maximum(corner, above)
    other_low, other_high = jnp.minimum(left, x), jnp.maximum(left, x)
    return jnp.maximum(jnp.minimum(high, other_high), jnp.maximum(low, other_low))

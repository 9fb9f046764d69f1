"""Images as bytes and as float32, equal bit for bit in both directions."""

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.protocols import Images

UNIT = np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255)
"""The float32 value of every byte."""


@jax.jit
def from_bytes(pixels: jax.Array) -> Images:
    """Return float32 images in [0, 1] of uint8 ones, equal bit for bit to a division by 255 in NumPy.

    It is a table: a device may multiply by a rounded 1 / 255 where a program divides.

    Args:
        pixels: uint8 images [B, H, W, C].
    """
    images: Images = jnp.asarray(UNIT).at[pixels].get(mode="promise_in_bounds")
    return images


def as_bytes(images: np.ndarray) -> np.ndarray | None:
    """Return the uint8 images from which :func:`from_bytes` makes exactly these; None if there are none.

    Args:
        images: float32 images [N, H, W, C] in the host's memory.
    """
    if images.dtype != np.float32:
        return None
    with np.errstate(invalid="ignore"):  # NaN has no byte
        pixels = np.rint(images * np.float32(255)).astype(np.uint8)
    bits = np.ascontiguousarray(images).view(np.int32)  # 0 and -0 are not the same
    return pixels if np.array_equal(UNIT[pixels].view(np.int32), bits) else None

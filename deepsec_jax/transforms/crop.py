"""Random crops, resized to the size of the image."""

from functools import partial

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images, Keys
from deepsec_jax.randomness import typed_key


@partial(jax.jit, static_argnames="size")
def crop_resize(x: Images, keys: Keys, size: int) -> Images:
    """Cut a random square out of every image and enlarge it to the image's size, bilinearly.

    Differentiable.  Beyond the crop's edge its outermost pixels are repeated, as in Pillow.

    Args:
        x: square images [B, H, W, C] in [0, 1].
        keys: one key per image [B]; determines the position, uniform over all that fit.
        size: side of the crop in pixels, at most that of the image, static.

    Returns:
        Images of the same shape and dtype, in [0, 1].
    """
    height, width, channels = x.shape[1:]
    if not 1 <= size <= min(height, width) or height != width:
        raise ValueError(f"a crop of {size} x {size} does not fit square images, got {height} x {width}")

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        row, column = jax.random.randint(key, (2,), 0, height - size + 1, jnp.int32)
        crop = jax.lax.dynamic_slice(image, (row, column, jnp.int32(0)), (size, size, channels))
        resized: jax.Array = jax.image.resize(crop, image.shape, "linear")
        return resized

    return jax.vmap(one)(x, typed_key(keys))

"""Random sizes and positions on a larger canvas."""

from functools import partial

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images, Keys, Scalar
from deepsec_jax.randomness import typed_key


@partial(jax.jit, static_argnames=("smallest", "largest"))
def resize_pad(x: Images, keys: Keys, smallest: int, largest: int, pad: Scalar = 0.0) -> Images:
    """Resize every image to a random side, bilinearly, and place it at a random position of a canvas.

    Differentiable with respect to the images.  Sides and positions are traced, the canvas is static: one
    program for all.

    Args:
        x: square images [B, H, W, C] in [0, 1], of a side of at most ``smallest``.
        keys: one key per image [B]; determines side and position.
        smallest: least side in pixels, static.
        largest: greatest side, drawn as often as any other; also the side of the canvas, static.
        pad: value around the image.

    Returns:
        Images [B, largest, largest, C] of the same dtype, in [0, 1].

    References:
        Xie et al., "Mitigating Adversarial Effects Through Randomization", ICLR 2018, arXiv:1711.01991.
    """
    height, width, channels = x.shape[1:]
    if height != width or not height <= smallest <= largest:
        raise ValueError(
            f"sides from {smallest} to {largest} need square images no larger, got {height} x {width}"
        )

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        side_key, place_key = jax.random.split(key)
        side = jax.random.randint(side_key, (), smallest, largest + 1, jnp.int32)
        place = jax.random.randint(place_key, (2,), 0, largest - side + 1, jnp.int32)
        resized = jax.image.scale_and_translate(
            image, (largest, largest, channels), (0, 1),
            jnp.full(2, side / height, jnp.float32), place.astype(jnp.float32), "linear", antialias=False,
        )  # fmt: skip
        line = jnp.arange(largest)[None, :]
        rows, columns = (line >= place[:, None]) & (line < place[:, None] + side)
        inside = rows[:, None, None] & columns[None, :, None]
        return jnp.where(inside, resized, jnp.asarray(pad, image.dtype))

    return jax.vmap(one)(x, typed_key(keys))

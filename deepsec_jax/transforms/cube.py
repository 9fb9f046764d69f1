"""Random points in the hypercube around an image."""

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images, Keys, Scalar
from deepsec_jax.randomness import typed_key


@jax.jit
def point_in_cube(x: Images, keys: Keys, radius: Scalar) -> Images:
    """Return a uniform point of the cube ``|y - x| <= radius`` of every image, clipped to [0, 1].

    Differentiable; a clipped entry has gradient 0.

    Args:
        x: images [B, H, W, C] in [0, 1].
        keys: one key per image [B].
        radius: half the cube's side, in units of the [0, 1] pixel range.

    Returns:
        Images of the same shape and dtype; ``x`` itself at radius 0.
    """
    drawn = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, minval=-1.0, maxval=1.0))(
        typed_key(keys)
    )
    return jnp.clip(x + jnp.asarray(radius, x.dtype) * drawn, min=0.0, max=1.0)

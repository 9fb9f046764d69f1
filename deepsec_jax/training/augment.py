"""Random training-time transforms, one key per example, compiled into the training step."""

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images, Keys


def shift_flip(x: Images, keys: Keys) -> Images:
    """Shift each image by up to 10 % of its side (zero fill) and flip half of them left to right."""
    reach = max(1, round(0.1 * x.shape[1]))
    return jax.vmap(lambda image, key: _shift_flip_one(image, key, reach))(x, keys)


def _shift_flip_one(image: jax.Array, key: jax.Array, reach: int) -> jax.Array:
    shift_key, flip_key = jax.random.split(key)
    row, column = jax.random.randint(shift_key, (2,), 0, 2 * reach + 1)
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)))
    shifted = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
    return jnp.where(jax.random.bernoulli(flip_key), shifted[:, ::-1], shifted)

"""Models that give no answer to some images: NaN, or +inf for the class that would win."""

from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax.pytree import Struct, static


class Mute(Struct):
    """Another model, without an answer wherever it would name another class than 1."""

    base: Any
    infinite: bool = static(False)

    def __call__(self, x):
        logits = self.base(x)
        top = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
        wrong = jnp.where(top, jnp.inf, logits) if self.infinite else jnp.full_like(logits, jnp.nan)
        return jnp.where(top[:, 1:2], logits, wrong)


class Halting(Struct):
    """Another model, without an answer to images brighter than a limit."""

    base: Any
    limit: float = 0.5

    def __call__(self, x):
        bright = jnp.mean(x, axis=(1, 2, 3)) > self.limit
        return jnp.where(bright[:, None], jnp.nan, self.base(x))

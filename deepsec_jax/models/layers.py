"""The activations of a network's layers, as vectors for a detector."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp


def flattened(outputs: Iterable[jax.Array]) -> tuple[jax.Array, ...]:
    """Return outputs of layers [B, ...] as float32 [B, d]."""
    return tuple(jax.lax.collapse(output, 1).astype(jnp.float32) for output in outputs)

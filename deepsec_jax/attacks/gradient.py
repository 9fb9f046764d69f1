"""The only place where attacks differentiate a model; ``rewriting.py`` keeps it fast on a CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.rewriting import fast_on_cpu
from deepsec_jax.platforms import on_cpu
from deepsec_jax.protocols import Images

AT_ONCE = 16
"""Backward passes of :func:`pullbacks` at a time on an accelerator; all of 1000 classes would fill memory."""

Objective = Callable[[Images], tuple[jax.Array, Any]]
"""``objective(x) -> (values [B], aux)``: value i depends on row i only."""


def value_and_gradient(objective: Objective, x: Images) -> tuple[jax.Array, Any, Images]:
    """Return values [B], aux, and the gradient of value i in row i, float32 [B, H, W, C]."""

    def total(x: Images) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        values, aux = objective(x)
        return jnp.sum(values), (values, aux)

    (_, (values, aux)), gradient = fast_on_cpu(jax.value_and_grad(total, has_aux=True))(x)
    return values, aux, gradient.astype(jnp.float32)


def pullbacks(
    logits_of: Callable[[Images], jax.Array],
    x: Images,
    cotangents: jax.Array,
    *,
    at_once: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return logits [B, K] and, for every cotangent, the gradient of its product with them.

    Args:
        logits_of: maps images to logits, row by row.
        x: images [B, H, W, C], float32 or finer.
        cotangents: float32 [n, B, K]; one forward serves all n backward passes.
        at_once: backward passes at a time, each with a gradient's memory; by default one on a CPU, elsewhere
            :data:`AT_ONCE`.

    Returns:
        Logits and gradients, float32 [B, K] and [n, B, H, W, C].
    """
    # On a CPU smaller batches fit into the cache: 0.7 of the time on the paper's MNIST network.
    width = at_once or (1 if on_cpu() else AT_ONCE)

    def both(x: Images, cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, pull = _pullback(logits_of, x)
        if len(cotangents) <= width:
            return logits, jax.vmap(pull)(cotangents)
        return logits, lax.map(pull, cotangents, batch_size=None if width == 1 else width)

    result: tuple[jax.Array, jax.Array] = fast_on_cpu(both)(x, cotangents)
    return result


def _pullback(
    logits_of: Callable[[Images], jax.Array], x: Images
) -> tuple[jax.Array, Callable[[jax.Array], Images]]:
    logits, pull = jax.vjp(lambda point: logits_of(point).astype(jnp.float32), x)
    return logits, lambda cotangent: pull(cotangent)[0].astype(jnp.float32)


def forward(model: Callable[[Images], jax.Array], x: Images) -> jax.Array:
    """Return the model's logits, for use in the body of a loop."""
    logits: jax.Array = fast_on_cpu(lambda point: model(point))(x)
    return logits

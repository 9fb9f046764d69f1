"""Carlini and Wagner's change of variables, x = (tanh(w) + 1) / 2 for any real w, and Adam on w."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deepsec_jax.attacks.gradient import Objective, value_and_gradient
from deepsec_jax.protocols import Images, Scalar

SHRINK = 0.999999
"""Moves exact zeros and ones inside, where w is finite and the gradient is not zero (C&W's value)."""


class AdamState(NamedTuple):
    """A point in tanh space with Adam's moments; rows first, each row with its own step count."""

    w: Images  # float32
    moments: Any


def to_tanh(x: Images) -> Images:
    """Return w of images in [0, 1], float32."""
    return jnp.arctanh((2.0 * x.astype(jnp.float32) - 1.0) * SHRINK)


def from_tanh(w: Images) -> Images:
    """Return the images in [0, 1] of any w."""
    return 0.5 * (jnp.tanh(w) + 1.0)


def adam_start(w: Images) -> AdamState:
    """Return the state before the first step."""
    return AdamState(w, jax.vmap(optax.scale_by_adam().init)(w))


def adam_step(
    state: AdamState, objective: Objective, learning_rate: Scalar
) -> tuple[AdamState, jax.Array, Any]:
    """Minimise the objective of w by one Adam step; return the new state, the old values and aux."""
    values, aux, gradient = value_and_gradient(objective, state.w)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    # optax mixes dtypes in Adam's bias correction, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        direction, moments = jax.vmap(optax.scale_by_adam().update)(gradient, state.moments)
    return AdamState(state.w - learning_rate * direction, moments), values, aux

"""Shared by minimum-norm attacks: the closest success so far, and its goal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.geometry import towards
from deepsec_jax.attacks.losses import max_margin, succeeded
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits, Scalar
from deepsec_jax.randomness import reseed


class Closest(NamedTuple):
    """The closest success of each row; without one, the clean image at infinite distance."""

    x: Images  # in the dtype of the clean images
    distance: jax.Array  # float32 [B]


def none_yet(x: Images) -> Closest:
    """Return the record before any success: the clean images."""
    return Closest(x, jnp.full(x.shape[0], jnp.inf, jnp.float32))


def closer(best: Closest, x_adv: Images, success: jax.Array, distance: jax.Array) -> Closest:
    """Return the closer of two successes in each row; the earlier one on ties."""
    takes = success & (distance < best.distance)
    return Closest(
        jnp.where(takes[:, None, None, None], x_adv, best.x), jnp.where(takes, distance, best.distance)
    )


def shortfall(logits: Logits, labels: Labels, *, targeted: bool) -> jax.Array:
    """Return the missing margin, [B]: the argument of Carlini and Wagner's hinge.

    Untargeted z_y - max over j != y of z_j, targeted max over j != t of z_j - z_t; at most 0 on success.
    """
    margin = max_margin(logits, labels)
    return margin if targeted else -margin


def reached(logits: Logits, labels: Labels, *, targeted: bool, confidence: Scalar = 0.0) -> jax.Array:
    """Return bool [B]: the goal is reached with a margin of at least ``confidence``."""
    missing = shortfall(logits, labels, targeted=targeted)
    return succeeded(logits, labels, targeted=targeted) & (missing <= -confidence)


def as_stored(x_adv: Images, x: Images) -> Images:
    """Return ``x_adv`` as it would be stored: rounded to the dtype of ``x`` towards ``x``.

    The gradient ignores the rounding.
    """
    if x.dtype == x_adv.dtype:
        return x_adv
    fixed = lax.stop_gradient(x_adv)
    return towards(fixed, x) + (x_adv - fixed).astype(x.dtype)


def at_steps(model: Classifier, keys: Keys | None, steps: jax.Array) -> Classifier:
    """Return the model with new random keys, each row at its own step [B]; see ``ascent.at_step``."""
    if keys is None:
        return model
    return reseed(model, jax.vmap(jax.random.fold_in)(keys, steps))


def squared_l2(delta: Images) -> jax.Array:
    """Return the squared Euclidean norm of each row, float32 [B]."""
    return jnp.sum(delta.astype(jnp.float32) ** 2, axis=(1, 2, 3))


def step_until_closest(step: Callable[[Any], Any], state: Any, *, steps: int) -> tuple[Closest, jax.Array]:
    """Return the closest success after ``steps`` steps of every row, and the steps of each, int32 [B].

    A row with a misclassified clean image ends at once: nothing is closer.

    Args:
        step: advances every row by one step and counts it.
        state: a NamedTuple with ``best``, a :class:`Closest`, and ``steps``, int32 [B]; all rows first.
        steps: maximum number of steps of a row, static.
    """

    def live(state: Any) -> jax.Array:
        live_rows: jax.Array = (state.steps < steps) & (state.best.distance > 0)
        return live_rows

    last = while_live(lambda state: rows_where(live(state), step(state), state), live, state)
    return last.best, last.steps


def cosine(steps: jax.Array, of: int) -> jax.Array:
    """Return a factor that decreases from 1 to 0 over ``of`` steps as half a cosine, float32 [B]."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * steps.astype(jnp.float32) / of))


def per_row(values: jax.Array) -> jax.Array:
    """Return values [B] as [B, 1, 1, 1], to broadcast against images."""
    return values[:, None, None, None]

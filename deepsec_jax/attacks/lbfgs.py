"""L-BFGS in the box [0, 1], one example per row, one evaluation of the objective per step.

Each step looks at one trial point of a projected line search, P(x + alpha d).  A trial that falls enough
becomes the next point; the direction there is the two-loop recursion on the free entries, those that are
not held at a bound by their gradient.  Every row is at its own stage, so that a batch needs no row to
wait for another's line search.

Byrd et al., "A Limited Memory Algorithm for Bound Constrained Optimization", SIAM J. Sci. Comput. 1995;
Bertsekas, "Projected Newton Methods for Optimization Problems with Simple Constraints", 1982.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

SUFFICIENT = 1e-4
"""Armijo's share of the fall that the gradient promises."""
FLAT = 1e-7
"""A relative fall of less is float32's rounding, not progress."""
PATIENCE = 6
"""Steps without progress before the memory is dropped; twice as many end the run."""


class Lbfgs(NamedTuple):
    """One row per example; D is the size of an image."""

    x: jax.Array  # float32 [B, D], the best point so far
    value: jax.Array  # [B], inf before the first evaluation
    gradient: jax.Array  # [B, D]
    direction: jax.Array  # [B, D]
    alpha: jax.Array  # [B], length of the trial step
    moves: jax.Array  # [B, m, D], latest last; zero rows are empty
    turns: jax.Array  # [B, m, D], the gradient's change over each move
    idle: jax.Array  # int32 [B], steps without progress


def lbfgs_start(x: jax.Array, memory: int) -> Lbfgs:
    """Return the state whose first trial is ``x`` [B, D] itself."""
    rows, size = x.shape
    nothing = jnp.zeros((rows, memory, size), jnp.float32)
    return Lbfgs(
        x=x,
        value=jnp.full(rows, jnp.inf, jnp.float32),
        gradient=jnp.zeros_like(x),
        direction=jnp.zeros_like(x),
        alpha=jnp.zeros(rows, jnp.float32),
        moves=nothing,
        turns=nothing,
        idle=jnp.zeros(rows, jnp.int32),
    )


def trial_point(state: Lbfgs) -> jax.Array:
    """Return the point to evaluate next, [B, D], in the box."""
    return jnp.clip(state.x + state.alpha[:, None] * state.direction, min=0.0, max=1.0)


class Stepped(NamedTuple):
    """What one evaluation led to."""

    state: Lbfgs
    accepted: jax.Array  # bool [B]: the trial point is the best point now
    converged: jax.Array  # bool [B]


def lbfgs_step(state: Lbfgs, value: jax.Array, gradient: jax.Array) -> Stepped:
    """Take in the objective at :func:`trial_point`; return the next state.

    Args:
        state: the state that the trial point came from.
        value: the objective there, [B].
        gradient: its gradient there, [B, D].
    """
    trial = trial_point(state)
    first = jnp.isinf(state.value)
    move, turn = trial - state.x, gradient - state.gradient
    promised = _dot(state.gradient, move)
    usable = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient), axis=1)
    accepted = usable & (first | ((promised < 0) & (value <= state.value + SUFFICIENT * promised)))
    gains = accepted & (first | (state.value - value > FLAT * jnp.abs(value)))
    idle = jnp.where(gains, 0, state.idle + 1)

    remembers = accepted & ~first & (_dot(move, turn) > 1e-8 * _dot(turn, turn))
    moves, turns = (
        jnp.where(remembers[:, None, None], jnp.concatenate([old[:, 1:], new[:, None]], axis=1), old)
        for old, new in ((state.moves, move), (state.turns, turn))
    )
    forgets = idle == PATIENCE
    moves, turns = (jnp.where(forgets[:, None, None], 0.0, part) for part in (moves, turns))

    x = jnp.where(accepted[:, None], trial, state.x)
    value = jnp.where(accepted, value, state.value)
    gradient = jnp.where(accepted[:, None], gradient, state.gradient)
    direction = _direction(x, gradient, moves, turns)
    turned = accepted | forgets
    # Without curvature a step of the gradient's own length means nothing: at most 1 in length.
    bare = ~jnp.any(moves != 0, axis=(1, 2))
    length = jnp.linalg.norm(direction, axis=1)
    full = jnp.where(bare, 1.0 / jnp.maximum(1.0, length), 1.0)
    state = Lbfgs(
        x=x,
        value=value,
        gradient=gradient,
        direction=jnp.where(turned[:, None], direction, state.direction),
        alpha=jnp.where(turned, full, 0.5 * state.alpha),
        moves=moves,
        turns=turns,
        idle=idle,
    )
    still = jnp.max(jnp.abs(jnp.clip(x - gradient, min=0.0, max=1.0) - x), axis=1) < 1e-6
    return Stepped(state, accepted, still | (idle >= 2 * PATIENCE))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=-1)


def _direction(x: jax.Array, gradient: jax.Array, moves: jax.Array, turns: jax.Array) -> jax.Array:
    """Return minus the inverse Hessian's guess times the gradient, on the free entries; downhill."""
    free = ~(((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0)))
    g = jnp.where(free, gradient, 0.0)
    moves, turns = (jnp.where(free[:, None], part, 0.0) for part in (moves, turns))
    curvature = _dot(moves, turns)  # [B, m]
    # On the free entries alone a pair may have lost its positive curvature; then it says nothing.
    holds = curvature > 1e-8 * _dot(turns, turns)
    rho = jnp.where(holds, 1.0 / jnp.where(holds, curvature, 1.0), 0.0)

    pairs = jax.tree.map(lambda part: jnp.moveaxis(part, 1, 0), (moves, turns, rho))  # [m, B, ...]

    def unwind(q: jax.Array, pair: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        move, turn, rho = pair
        share = rho * _dot(move, q)
        return q - share[:, None] * turn, share

    q, shares = lax.scan(unwind, g, pairs, reverse=True)
    scales = jnp.where(holds, curvature / jnp.where(holds, _dot(turns, turns), 1.0), 0.0)
    latest = jnp.max(jnp.where(holds, jnp.arange(moves.shape[1])[None], -1), axis=1)
    scale = jnp.where(
        latest >= 0, jnp.take_along_axis(scales, jnp.maximum(latest, 0)[:, None], axis=1)[:, 0], 1.0
    )

    def rewind(d: jax.Array, item: tuple[tuple[jax.Array, ...], jax.Array]) -> tuple[jax.Array, None]:
        (move, turn, rho), share = item
        return d + (share - rho * _dot(turn, d))[:, None] * move, None

    d, _ = lax.scan(rewind, scale[:, None] * q, (pairs, shares))
    d = -jnp.where(free, d, 0.0)
    return jnp.where((_dot(d, g) < 0)[:, None], d, -g)

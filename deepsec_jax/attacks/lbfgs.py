"""L-BFGS-B in the box [0, 1], one example per row, one evaluation of the objective per step.

Each step evaluates one trial point of a line search from the best point towards the minimum of the quadratic
model in the box (``box_model.py``).  At the end of a search the point becomes the best and the model is
rebuilt.  Rows have separate states, so no row waits for another's line search.

Byrd et al., "A Limited Memory Algorithm for Bound Constrained Optimization", SIAM J. Sci. Comput. 1995.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.box_model import model_minimum
from deepsec_jax.attacks.compaction import rows_where
from deepsec_jax.attacks.more_thuente import LONGEST, Search, search_start, search_step
from deepsec_jax.protocols import Scalar

FLAT = 1e-7
"""A smaller relative decrease is a float32 rounding error, not progress."""


class Lbfgs(NamedTuple):
    """One row per example; D is the size of an image."""

    x: jax.Array  # float32 [B, D], the best point so far
    value: jax.Array  # [B], inf before the first evaluation
    gradient: jax.Array  # [B, D]
    aim: jax.Array  # [B, D], in the box: step 1 of the search
    search: Search
    moves: jax.Array  # [B, m, D], latest last; zero rows are empty
    turns: jax.Array  # [B, m, D], the gradient's change over each move; their product is 1
    longest: jax.Array  # [B], limit of the first step's length
    reach: jax.Array  # [B], that length without the limit


def lbfgs_start(x: jax.Array, memory: int, longest: Scalar = jnp.inf) -> Lbfgs:
    """Return the state whose first trial is ``x`` [B, D] itself.

    Args:
        x: start, in the box.
        memory: number of stored pairs of moves and turns.
        longest: limit of the first move's length, one number or [B].  With another limit the descent may end
            in another minimum.
    """
    rows, size = x.shape
    pairs = jnp.zeros((rows, memory, size), jnp.float32)
    nothing = jnp.zeros(rows, jnp.float32)
    value = jnp.full(rows, jnp.inf, jnp.float32)
    limits = jnp.broadcast_to(jnp.asarray(longest, jnp.float32), (rows,))
    search = search_start(value, nothing, nothing + 1.0)
    return Lbfgs(x, value, jnp.zeros_like(x), x, search, pairs, pairs, limits, nothing)


def trial_point(state: Lbfgs) -> jax.Array:
    """Return the point to evaluate next, [B, D], in the box."""
    step = state.search.step[:, None]
    between = jnp.clip(state.x + step * (state.aim - state.x), min=0.0, max=1.0)
    return jnp.where(step == 1, state.aim, between)  # x + (aim - x) may exceed a bound by rounding


class Stepped(NamedTuple):
    """The result of one evaluation."""

    state: Lbfgs
    accepted: jax.Array  # bool [B]: the trial point is the new best point
    converged: jax.Array  # bool [B]


def lbfgs_step(state: Lbfgs, value: jax.Array, gradient: jax.Array) -> Stepped:
    """Update with the objective at :func:`trial_point`; return the next state.

    Args:
        state: the state of the trial point.
        value: the objective there, [B].
        gradient: its gradient there, [B, D].
    """
    trial = trial_point(state)
    first = jnp.isinf(state.value)
    usable = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient), axis=1)
    slope = jnp.where(usable, _dot(gradient, state.aim - state.x), 0.0)
    search, ends = search_step(state.search, jnp.where(usable, value, 1e30), slope)
    accepted = usable & (first | (ends & (value <= state.value)))
    over = ends | (search.evaluations >= LONGEST) | ~jnp.isfinite(search.step)
    fails = ~accepted & ~first & over
    turned = accepted | fails

    remembered = jnp.any(state.moves[:, -1] != 0, axis=1)
    moves, turns = _remember(state, trial, gradient, accepted & ~first)
    fall = state.value - value
    x = jnp.where(accepted[:, None], trial, state.x)
    value = jnp.where(accepted, value, state.value)
    gradient = jnp.where(accepted[:, None], gradient, state.gradient)

    # Without pairs the model's Hessian is the identity: its minimum is one projected gradient step.
    plain = jnp.clip(x - gradient, min=0.0, max=1.0)
    away = jnp.max(jnp.abs(plain - x), axis=1)
    length = jnp.linalg.norm(plain - x, axis=1)
    limited = jnp.where(length > state.longest, state.longest / jnp.maximum(length, 1e-30), 1.0)
    plain = jnp.where((first & (limited < 1))[:, None], x + limited[:, None] * (plain - x), plain)
    aim = jax.vmap(model_minimum)(x, gradient, moves, turns)
    downhill = jnp.all(jnp.isfinite(aim), axis=1) & (_dot(gradient, aim - x) < 0)
    modelled = ~fails & downhill & jnp.any(moves[:, -1] != 0, axis=1)
    forgets = (turned & ~modelled)[:, None, None]
    moves, turns = jnp.where(forgets, 0.0, moves), jnp.where(forgets, 0.0, turns)
    aim = jnp.where(modelled[:, None], aim, plain)

    way = aim - x
    room = jnp.where(way > 0, 1 - x, x) / jnp.where(way != 0, jnp.abs(way), 1.0)
    largest = jnp.maximum(1.0, jnp.min(jnp.where(way != 0, room, jnp.inf), axis=1))
    largest = jnp.where(first, 1.0, jnp.minimum(largest, 1e10))
    fresh = search_start(value, _dot(gradient, way), largest)
    after = Lbfgs(
        x=x,
        value=value,
        gradient=gradient,
        aim=jnp.where(turned[:, None], aim, state.aim),
        search=rows_where(turned, fresh, search),
        moves=moves,
        turns=turns,
        longest=state.longest,
        reach=jnp.where(first, length, state.reach),
    )
    flat = accepted & ~first & (fall <= FLAT * jnp.abs(value))
    stuck = (fails & ~remembered) | (first & ~usable)
    return Stepped(after, accepted, (away < 1e-6) | flat | stuck)


def _remember(
    state: Lbfgs, trial: jax.Array, gradient: jax.Array, moved: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return moves and turns with the latest pair, if its curvature is positive beyond rounding."""
    move, turn = trial - state.x, gradient - state.gradient
    curvature = _dot(move, turn)
    holds = moved & (curvature > 0) & (curvature > -1e-7 * _dot(state.gradient, move))
    scale = jnp.where(holds, curvature, 1.0)[:, None] ** -0.5
    new = (jnp.concatenate([state.moves[:, 1:], (scale * move)[:, None]], axis=1),
           jnp.concatenate([state.turns[:, 1:], (scale * turn)[:, None]], axis=1))  # fmt: skip
    return rows_where(holds, new, (state.moves, state.turns))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=-1)

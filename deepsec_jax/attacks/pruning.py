"""Undo small changes: a successful image often remains successful without its smallest changes.

A gradient-based search leaves small changes of little effect, which are expensive in L1.  Bisection, with
forwards only, finds how many of the smallest changes can be undone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.best_so_far import per_row
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.protocols import Images


def prune(
    x: Images,
    x_adv: Images,
    found: jax.Array,
    success: Callable[[Images, Any], jax.Array],
    rows: tuple[Any, Any, jax.Array],
    trials: int,
) -> tuple[Images, jax.Array]:
    """Return ``x_adv`` with as many of its smallest changes undone as success permits.

    Args:
        x: clean images [B, H, W, C].
        x_adv: images that succeed, in the dtype of ``x``.
        found: rows to process, bool [B]; the others are returned unchanged at no cost.
        success: maps candidates and ``rows`` to bool [B], row by row.
        rows: labels, model keys or None, and the number of model calls so far, int32 [B], which each trial
            increases.
        trials: bisection steps, one forward per row each.

    Returns:
        Successful images, each entry from ``x_adv`` or from ``x``; and the forwards of each row, float32 [B].
    """
    if trials == 0:
        return x_adv, jnp.zeros(x.shape[0], jnp.float32)

    def live(state: _Pruning) -> jax.Array:
        return state.left > 0

    def step(state: _Pruning) -> _Pruning:
        middle = (state.kept + state.lost) / 2
        candidate = jnp.where(state.shares <= per_row(middle), state.x, state.start)
        succeeds = success(candidate, state.rows)
        labels, keys, calls = state.rows
        after = state._replace(
            best=jnp.where(per_row(succeeds), candidate, state.best),
            kept=jnp.where(succeeds, middle, state.kept),
            lost=jnp.where(succeeds, state.lost, middle),
            left=state.left - 1,
            rows=(labels, keys, calls + 1),
        )
        return rows_where(live(state), after, state)

    nothing = jnp.zeros(x.shape[0], jnp.float32)
    state = _Pruning(
        x=x, start=x_adv, shares=shares(x_adv.astype(jnp.float32) - x.astype(jnp.float32)), best=x_adv,
        kept=nothing, lost=nothing + 1.0, left=jnp.where(found, trials, 0), rows=rows,
    )  # fmt: skip
    last = while_live(step, live, state)
    return last.best, jnp.where(found, float(trials), 0.0)


class _Pruning(NamedTuple):
    x: Images
    start: Images  # the initial successful images
    shares: Images
    best: Images  # the best successful images so far
    kept: jax.Array  # float32 [B]: the largest share undone with success
    lost: jax.Array  # float32 [B]: the smallest share that was too large
    left: jax.Array  # int32 [B]: trials
    rows: tuple[Any, Any, jax.Array]


def shares(change: Images) -> Images:
    """Return, for each entry, the share of the row's L1 norm in it and all smaller ones, in [0, 1]."""
    sizes = jnp.abs(change).reshape(change.shape[0], -1)
    order = jnp.argsort(sizes, axis=1)
    sums = jnp.cumsum(jnp.take_along_axis(sizes, order, axis=1), axis=1)
    total = jnp.maximum(sums[:, -1:], jnp.finfo(sums.dtype).tiny)
    in_place = jnp.take_along_axis(sums, jnp.argsort(order, axis=1), axis=1)
    return (in_place / total).reshape(change.shape)

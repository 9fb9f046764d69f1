"""Row-wise loops without work for finished rows, inside one jitted call: :func:`while_live`.

On an accelerator it runs in up to three phases of decreasing static batch size.  When few enough rows are
live, they are sorted to the front and the others are set aside.

On a CPU it steps a few rows at a time, and the next row replaces a finished one.  A CPU is nearly as fast per
row with few rows as with many; one size is compiled instead of three; and phases spend a sixth of the work on
finished rows.

Nothing leaves the device and there is one trace.  Under an outer ``vmap`` the loop runs until the slowest of
the outer axis is finished.  On several devices :func:`deepsec_jax.attacks.run_in_batches` runs it per shard.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.platforms import on_cpu

Rows = TypeVar("Rows")
Step = Callable[[Rows], Rows]
Live = Callable[[Rows], jax.Array]

PHASES = (2, 8)
"""Batch sizes: all rows, then these fractions of them.

Halves and eighths cost 5 % more than the best three sizes if rows finish at an even rate.  They are near the
best if the number of live rows decays.
"""

SMALLEST = 8
"""Smallest batch size of a phase: smaller batches are no faster per call."""

WIDTH = 16
"""Rows per step on a CPU: a row costs about a tenth more than among 100, and fewer places are idle."""


def phase_sizes(rows: int) -> tuple[int, ...]:
    """Return the static batch sizes of a loop over ``rows`` rows: decreasing, at most three."""
    sizes = [rows]
    for fraction in PHASES:
        size = max(-(-rows // fraction), min(SMALLEST, rows))
        if size < sizes[-1]:
            sizes.append(size)
    return tuple(sizes)


def while_live(step: Step[Rows], live: Live[Rows], state: Rows) -> Rows:
    """Apply ``step`` until no row is live.

    Args:
        step: advances every live row and leaves the others unchanged; row i of its result depends on row i
            only, whatever the number of rows.
        live: which rows have work left, bool [rows].  A finished row stays finished.
        state: a pytree; all leaves have the rows as first axis, at least one row.

    Returns:
        The final state, rows in their original order.
    """
    return few_at_a_time(step, live, state) if on_cpu() else in_phases(step, live, state)


def in_phases(step: Step[Rows], live: Live[Rows], state: Rows) -> Rows:
    """Return the result of :func:`while_live`, computed in phases of decreasing batch size."""
    rows = jax.tree.leaves(state)[0].shape[0]
    working: tuple[jax.Array, Any] = (jnp.arange(rows), state)
    aside = []
    sizes = phase_sizes(rows)
    for size, below in zip(sizes, (*sizes[1:], 0), strict=True):
        if size < rows:
            working = _take(working, _live_first(live, working[1]))
            aside.append(jax.tree.map(lambda leaf, size=size: leaf[size:], working))
            working = jax.tree.map(lambda leaf, size=size: leaf[:size], working)
        working = _until(below, lambda part: live(part[1]), lambda part: (part[0], step(part[1])), working)
    index, whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), working, *reversed(aside))
    in_order: Rows = _take(whole, jnp.argsort(index))
    return in_order


def few_at_a_time(step: Step[Rows], live: Live[Rows], state: Rows) -> Rows:
    """Return the result of :func:`while_live`, computed ``WIDTH`` rows at a time."""

    def turn(state: Rows) -> Rows:
        first = _live_first(live, state)[:WIDTH]
        part = _take(state, first)
        return _put_back(state, first, part, step(part))

    rows = jax.tree.leaves(state)[0].shape[0]
    return _until(0, live, turn if rows > WIDTH else step, state)


def rows_where(chosen: jax.Array, new: Rows, old: Rows) -> Rows:
    """Return ``new`` in the chosen rows and ``old`` in the others, leaf by leaf.

    Args:
        chosen: bool [rows].
        new: a pytree with the rows as first axis.
        old: the same structure.
    """

    def pick(new_leaf: jax.Array, old_leaf: jax.Array) -> jax.Array:
        if new_leaf is old_leaf:  # an untouched leaf is not copied
            return old_leaf
        return jnp.where(chosen.reshape(-1, *(1,) * (new_leaf.ndim - 1)), new_leaf, old_leaf)

    picked: Rows = jax.tree.map(pick, new, old)
    return picked


def _until(below: int, live: Live[Rows], step: Step[Rows], state: Rows) -> Rows:
    """Apply ``step`` until at most ``below`` rows are live."""
    return lax.while_loop(lambda state: jnp.sum(live(state)) > below, step, varying_alike(state))


def _live_first(live: Live[Any], state: Any) -> jax.Array:
    """Return the row indices, live rows first, in their order."""
    return jnp.argsort(~live(state), stable=True)


def _take(tree: Rows, rows: jax.Array) -> Rows:
    taken: Rows = jax.tree.map(lambda leaf: leaf[rows], tree)
    return taken


def _put_back(state: Rows, rows: jax.Array, before: Rows, after: Rows) -> Rows:
    """Return the state with ``after`` in these rows; a leaf that no step has changed is not copied."""

    def put(whole: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
        return whole if new is old else whole.at[rows].set(new, unique_indices=True)

    whole: Rows = jax.tree.map(put, state, before, after)
    return whole

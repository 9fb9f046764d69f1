"""Row-wise loops that spend no work on finished rows: compaction inside one jitted call.

A row that is done would still cost its share of every step.  So the loop runs in up to three phases of
falling static batch size: when few enough rows are live, they are sorted to the front and the rest is
laid aside.  Nothing leaves the device and there is one trace.

Under an outer ``vmap`` the loop runs until the slowest of the outer axis is done.  On several devices
:func:`deepsec_jax.attacks.run_in_batches` runs it per shard.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Rows = TypeVar("Rows")

PHASES = (2, 8)
"""Batch sizes are all rows, then these fractions of them.

Halves and eighths cost 5 % more than the best three sizes where rows finish at an even rate, and are
near the best where they decay.
"""

SMALLEST = 8
"""A batch below this is no faster per call, so it is not cut further."""


def phase_sizes(rows: int) -> tuple[int, ...]:
    """Return the static batch sizes of a loop over ``rows`` rows, falling, at most three."""
    sizes = [rows]
    for fraction in PHASES:
        size = max(-(-rows // fraction), min(SMALLEST, rows))
        if size < sizes[-1]:
            sizes.append(size)
    return tuple(sizes)


def while_live(step: Callable[[Rows], Rows], live: Callable[[Rows], jax.Array], state: Rows) -> Rows:
    """Return the state after ``step`` has been applied until no row is live.

    Args:
        step: advances every live row and leaves the others as they are; row i of its result depends on
            row i only, whatever the number of rows.
        live: which rows have work left, bool [rows].  A finished row stays finished.
        state: a pytree whose leaves all have the rows as first axis, at least one row.

    Returns:
        The final state, rows in the order they came in.
    """
    rows = jax.tree.leaves(state)[0].shape[0]
    working: tuple[jax.Array, Any] = (jnp.arange(rows), state)
    aside = []
    sizes = phase_sizes(rows)
    for size, below in zip(sizes, (*sizes[1:], 0), strict=True):
        if size < rows:
            order = jnp.argsort(~live(working[1]), stable=True)
            working = _take(working, order)
            aside.append(jax.tree.map(lambda leaf, size=size: leaf[size:], working))
            working = jax.tree.map(lambda leaf, size=size: leaf[:size], working)
        working = _loop(step, live, below, working)
    index, whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), working, *reversed(aside))
    return _take(whole, jnp.argsort(index))


def _loop(step: Callable[[Any], Any], live: Callable[[Any], jax.Array], below: int, working: Any) -> Any:
    """Step until at most ``below`` rows are live."""

    def goes_on(working: Any) -> jax.Array:
        return jnp.sum(live(working[1])) > below

    def stepped(working: Any) -> Any:
        return working[0], step(working[1])

    return lax.while_loop(goes_on, stepped, working)


def rows_where(chosen: jax.Array, new: Rows, old: Rows) -> Rows:
    """Return ``new`` in the chosen rows and ``old`` in the others, leaf by leaf.

    Args:
        chosen: bool [rows].
        new: a pytree with the rows as first axis.
        old: the same structure.
    """

    def pick(new_leaf: jax.Array, old_leaf: jax.Array) -> jax.Array:
        if new_leaf is old_leaf:  # what a step passes on untouched is not copied
            return old_leaf
        return jnp.where(chosen.reshape(-1, *(1,) * (new_leaf.ndim - 1)), new_leaf, old_leaf)

    return jax.tree.map(pick, new, old)


def _take(tree: Rows, order: jax.Array) -> Rows:
    return jax.tree.map(lambda leaf: leaf[order], tree)

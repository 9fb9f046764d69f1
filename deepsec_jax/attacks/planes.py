"""The smallest step in the box that increases a linear function by a given amount: L1, L2 and L-inf."""

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images


def step_onto_plane(point: Images, slope: Images, gap: jax.Array, norm: str) -> Images:
    """Return the smallest d with <slope, d> = gap and point + d in [0, 1]; the farthest d if there is none.

    Each entry moves along the sign of its slope, at most to the bound of the box.  In L-inf all entries move
    by the same length, in L2 in proportion to their slope, until each reaches its bound.  The common length
    is found from the sorted lengths at which entries reach their bounds.  In L1 the entries of steepest slope
    move to their bounds.

    Args:
        point: images in [0, 1], float32 [B, H, W, C].
        slope: float32 [B, H, W, C].
        gap: at least 0 [B].
        norm: "l1", "l2" or "linf", static.
    """
    rows = point.shape[0]
    steep = jnp.abs(slope).reshape(rows, -1)
    room = jnp.where(slope > 0, 1.0 - point, point).reshape(rows, -1)
    room = jnp.maximum(room, 0.0)
    moved = _steepest_first(steep, room, gap) if norm == "l1" else _together(steep, room, gap, norm)
    return jnp.sign(slope) * moved.reshape(point.shape)


def _steepest_first(steep: jax.Array, room: jax.Array, gap: jax.Array) -> jax.Array:
    order = jnp.argsort(-steep, axis=1)
    steep, room = (jnp.take_along_axis(part, order, axis=1) for part in (steep, room))
    before = jnp.cumsum(steep * room, axis=1) - steep * room
    left = jnp.maximum(gap[:, None] - before, 0.0)
    moved = jnp.minimum(room, left / jnp.where(steep > 0, steep, 1.0))
    moved = jnp.where(steep > 0, moved, 0.0)
    return jnp.take_along_axis(moved, jnp.argsort(order, axis=1), axis=1)


def _together(steep: jax.Array, room: jax.Array, gap: jax.Array, norm: str) -> jax.Array:
    pace = jnp.where(steep > 0, 1.0, 0.0) if norm == "linf" else steep
    ends = jnp.where(pace > 0, room / jnp.where(pace > 0, pace, 1.0), jnp.inf)
    order = jnp.argsort(ends, axis=1)
    sorted_ends, gain, rate = (
        jnp.take_along_axis(part, order, axis=1) for part in (ends, steep * room, steep * pace)
    )
    ended = jnp.cumsum(gain, axis=1) - gain  # contribution of entries at their bounds, before each breakpoint
    moving = jnp.flip(
        jnp.cumsum(jnp.flip(rate, axis=1), axis=1), axis=1
    )  # and of those that still move, per length
    length = (gap[:, None] - ended) / jnp.where(moving > 0, moving, 1.0)
    length = jnp.where(moving > 0, length, jnp.inf)
    # The first piece whose length ends before its next breakpoint.
    fits = length <= sorted_ends
    first = jnp.argmax(fits, axis=1)
    found = jnp.take_along_axis(length, first[:, None], axis=1)
    found = jnp.where(jnp.any(fits, axis=1, keepdims=True), found, jnp.inf)
    return jnp.where(pace > 0, jnp.minimum(jnp.maximum(found, 0.0) * pace, room), 0.0)

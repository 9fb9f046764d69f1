"""Distances, and projections onto balls around 0 with one radius per row: L0, L1, L2 and L-inf."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.best_so_far import per_row
from deepsec_jax.attacks.geometry import at_least_float32, l2_norm
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Images

BALLS = ("l0", "l1", "l2", "linf")

DUAL = {"l0": "linf", "l1": "linf", "l2": "l2", "linf": "l1"}
"""Norm -> its dual norm, for the distance to a level of the linearised loss."""


def size_of(delta: Images, norm: str) -> jax.Array:
    """Return the norm of each row, float32 or finer [B]; L0 counts entries that are not zero."""
    entries = at_least_float32(delta)
    if norm == "l0":
        return jnp.sum(entries != 0, axis=(1, 2, 3), dtype=entries.dtype)
    if norm == "l1":
        return jnp.sum(jnp.abs(entries), axis=(1, 2, 3))
    if norm == "l2":
        return l2_norm(entries)
    return jnp.max(jnp.abs(entries), axis=(1, 2, 3), initial=0.0)


def onto_ball(delta: Images, radius: jax.Array, norm: str) -> Images:
    """Return the L2 projection of each row onto its ball around 0.

    Args:
        delta: float32 [B, H, W, C].
        radius: at least 0, may be infinite [B]; in L0 the number of entries that may differ from zero.
        norm: of :data:`BALLS`, static.
    """
    if norm == "linf":
        return jnp.clip(delta, min=-per_row(radius), max=per_row(radius))
    if norm == "l2":
        length = l2_norm(delta)
        return delta * per_row(jnp.minimum(1.0, radius / jnp.where(length > 0, length, 1.0)))
    magnitude = jnp.abs(delta).reshape(delta.shape[0], -1)
    if norm == "l0":
        order = jnp.argsort(-magnitude, axis=1)
        place = jnp.argsort(order, axis=1).reshape(
            delta.shape
        )  # 0 is the largest entry; ties are ordered, too
        return jnp.where(place.astype(jnp.float32) < per_row(radius), delta, 0.0)
    falling = -jnp.sort(-magnitude, axis=1)
    magnitude = jnp.abs(delta)
    return jnp.sign(delta) * jnp.maximum(magnitude - per_row(_shrinkage(falling, radius)), 0.0)


def free_part(gradient: Images, point: Images) -> Images:
    """Return the gradient without entries that would leave the box: decreasing at 0, increasing at 1.

    Entries that cannot move must not influence the length of a step or the estimated distance of the
    boundary.
    """
    blocked = ((point <= 0.0) & (gradient < 0.0)) | ((point >= 1.0) & (gradient > 0.0))
    return jnp.where(blocked | ~jnp.isfinite(gradient), 0.0, gradient)


def _shrinkage(falling: jax.Array, radius: jax.Array) -> jax.Array:
    """Return the common decrease of all magnitudes so that they sum to the radius; 0 inside the ball.

    Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball for learning in high
    dimensions", ICML 2008.
    """
    total = jnp.cumsum(falling, axis=1)
    count = jnp.arange(1, falling.shape[1] + 1, dtype=jnp.float32)[None]
    level = (total - radius[:, None]) / count
    kept = jnp.sum(falling > level, axis=1)
    at = jnp.take_along_axis(level, jnp.maximum(kept - 1, 0)[:, None], axis=1)[:, 0]
    return jnp.where(total[:, -1] > radius, jnp.maximum(at, 0.0), 0.0)


def onto_l1_ball_in_box(point: Images, clean: Images, radius: jax.Array) -> Images:
    """Return the point nearest in L2 of the box [0, 1] inside each row's L1 ball around ``clean``.

    For a multiplier t the solution is the change, with magnitudes reduced by t and clipped to the box; its
    size decreases with t.  Bisection finds the t where it is the radius.

    Args:
        point: float32 [B, H, W, C].
        clean: centers, in the box.
        radius: float32 [B].
    """
    change = point - clean
    magnitude = jnp.abs(change)

    def at(shrinkage: jax.Array) -> Images:
        shrunk = jnp.sign(change) * jnp.maximum(magnitude - per_row(shrinkage), 0.0)
        return jnp.clip(clean + shrunk, min=0.0, max=1.0) - clean

    limit = radius * (1.0 - 2.0**-18)  # a sum of many float32 entries is off by as much

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        fits = size_of(at(middle), "l1") <= limit
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    zero = jnp.zeros(radius.shape, jnp.float32)
    largest = jnp.max(magnitude, axis=(1, 2, 3))
    _, high = lax.fori_loop(0, 30, halve, varying_alike((zero, largest)))
    inside = size_of(at(zero), "l1") <= limit
    return clean + at(jnp.where(inside, 0.0, high))

"""Proximal operators of the norms, row by row: argmin over z of ||z - v||_2^2 / 2 + amount ||z||."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.balls import onto_ball
from deepsec_jax.attacks.best_so_far import per_row
from deepsec_jax.attacks.geometry import l2_norm
from deepsec_jax.protocols import Images

NEWTON_STEPS = 8
"""Steps to the root of the quartic; six reach float32 precision on [1e-4, 1]."""


def proximal(point: Images, amount: jax.Array, norm: str) -> Images:
    """Return the minimiser of ||z - point||_2^2 / 2 + amount ||z|| in each row.

    In L0 the penalty is the sum of |z|^(2/3), which is continuous and also gives exact zeros.

    Args:
        point: float32 [B, H, W, C].
        amount: at least 0 [B].
        norm: "l0", "l1", "l2" or "linf", static.
    """
    if norm == "l0":
        return _two_thirds(point, per_row(amount))
    if norm == "l1":
        return jnp.sign(point) * jnp.maximum(jnp.abs(point) - per_row(amount), 0.0)
    if norm == "l2":
        length = l2_norm(point)
        kept = jnp.maximum(1.0 - amount / jnp.where(length > 0, length, 1.0), 0.0)
        return per_row(kept) * point
    # Moreau's decomposition: the dual norm of L-inf is L1.
    return point - onto_ball(point, amount, "l1")


def _two_thirds(point: Images, amount: jax.Array) -> Images:
    """Return the minimiser of (z - point)^2 / 2 + amount |z|^(2/3), entry by entry.

    With |z| = u^3 the stationary points are roots of u^4 - |point| u + 2 amount / 3.  Its largest root is a
    minimum; 0 is the other one.  Newton's method from u = |point|^(1/3) decreases to the root.
    """
    size = jnp.abs(point)

    def newton(_: int, u: jax.Array) -> jax.Array:
        slope = 4.0 * u**3 - size
        return u - jnp.where(slope > 0, (u**4 - size * u + 2.0 * amount / 3.0) / slope, 0.0)

    first = jnp.cbrt(size)
    u = jnp.clip(lax.fori_loop(0, NEWTON_STEPS, newton, first), min=0.0, max=first)
    lower = (u**3 - size) ** 2 / 2.0 + amount * u**2 < size**2 / 2.0
    return jnp.where(lower, jnp.sign(point) * u**3, 0.0)

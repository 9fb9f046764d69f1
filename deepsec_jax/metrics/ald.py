"""ALD_p, average L_p distortion.

The paper's text divides by the norm of the clean image.  Its tables have absolute L2 and L-inf; their L0 is
the share of entries (pixels x channels) that differ after rounding to 8 bits.  Both forms are here.
"""

import math

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column


def _change(record: AttackRecord) -> jax.Array:
    delta = record.x_adv.astype(jnp.float32) - record.x.astype(jnp.float32)
    return jnp.abs(delta).reshape(delta.shape[0], -1)


def _changed(record: AttackRecord) -> jax.Array:
    """Mark entries that differ at 8-bit levels [B, H, W, C]."""
    return jnp.round(record.x_adv * 255.0) != jnp.round(record.x * 255.0)


def _flat(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32).reshape(x.shape[0], -1)


def l0(record: AttackRecord) -> jax.Array:
    """Return the share of entries [B] whose 8-bit level changed."""
    return jnp.mean(_changed(record), axis=(1, 2, 3), dtype=jnp.float32)


def l0_pixels(record: AttackRecord) -> jax.Array:
    """Return the share of pixels [B] of which at least one channel's 8-bit level changed."""
    return jnp.mean(jnp.any(_changed(record), axis=3), axis=(1, 2), dtype=jnp.float32)


def l2(record: AttackRecord) -> jax.Array:
    """Return the Euclidean norm of the change [B], images in [0, 1]."""
    norms: jax.Array = jnp.linalg.norm(_change(record), axis=1)
    return norms


def linf(record: AttackRecord) -> jax.Array:
    """Return the largest absolute change [B], images in [0, 1]."""
    return jnp.max(_change(record), axis=1)


def l2_relative(record: AttackRecord) -> jax.Array:
    """Return |x_adv - x|_2 / |x|_2 [B]; NaN where the clean image is black."""
    size = jnp.linalg.norm(_flat(record.x), axis=1)
    return jnp.where(size > 0, l2(record) / jnp.where(size > 0, size, 1.0), jnp.nan)


def linf_relative(record: AttackRecord) -> jax.Array:
    """Return |x_adv - x|_inf / |x|_inf [B]; NaN where the clean image is black."""
    size = jnp.max(_flat(record.x), axis=1)
    return jnp.where(size > 0, linf(record) / jnp.where(size > 0, size, 1.0), jnp.nan)


COLUMNS = (
    Column("l0", "ald", "L0", "share of entries with round(255 x_adv) != round(255 x)", "II-B2",
           "share of entries", "lower", "successful", l0, bounds=(0, 1)),
    Column("l2", "ald", "L2", "|x_adv - x|_2", "II-B2",
           "images in [0, 1]", "lower", "successful", l2, bounds=(0, math.inf)),
    Column("linf", "ald", "L-inf", "max |x_adv - x|", "II-B2",
           "images in [0, 1]", "lower", "successful", linf, bounds=(0, 1)),
    Column("l0_pixels", "ald", "L0 pixels", "share of pixels with any channel changed at 8 bits", "ours",
           "share of pixels", "lower", "successful", l0_pixels, bounds=(0, 1), quick=False),
    Column("l2_relative", "ald", "L2 relative", "|x_adv - x|_2 / |x|_2, the text's form", "II-B2",
           "ratio", "lower", "successful", l2_relative, bounds=(0, math.inf), quick=False),
    Column("linf_relative", "ald", "L-inf relative", "|x_adv - x|_inf / |x|_inf, the text's form", "II-B2",
           "ratio", "lower", "successful", linf_relative, bounds=(0, math.inf), quick=False),
)  # fmt: skip

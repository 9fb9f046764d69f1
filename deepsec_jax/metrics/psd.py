"""PSD, perturbation sensitivity distance (Luo et al., AAAI 2018): changes count more in flat areas.

The paper's text weights a change by 1 / std of the 3 x 3 window around its pixel.  Its code and tables use 1
- std.  Both forms are here.
"""

import math

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column
from deepsec_jax.metrics.windows import window_mean, window_sum
from deepsec_jax.protocols import Images

LEAST_DEVIATION = 1 / 255
"""Lower bound of the standard deviation in :func:`psd_inverse`: one 8-bit level; in a flat window it is 0."""


def local_deviation(x: Images) -> Images:
    """Return the standard deviation of each channel's 3 x 3 window, edges mirrored, [B, H, W, C]."""
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    mean = window_mean(padded, 3)
    return jnp.sqrt(window_sum((padded,), 3, lambda part: (part - mean) ** 2) / 9.0)


def _change(record: AttackRecord) -> Images:
    return jnp.abs(record.x_adv.astype(jnp.float32) - record.x.astype(jnp.float32))


def psd(record: AttackRecord) -> jax.Array:
    """Return the sum over entries of |x_adv - x| (1 - std of the clean window) [B]."""
    return jnp.sum(_change(record) * (1.0 - local_deviation(record.x)), axis=(1, 2, 3))


def psd_inverse(record: AttackRecord) -> jax.Array:
    """Return the sum over entries of |x_adv - x| / max(std of the clean window, 1/255) [B]."""
    floored = jnp.maximum(local_deviation(record.x), LEAST_DEVIATION)
    return jnp.sum(_change(record) / floored, axis=(1, 2, 3))


COLUMNS = (
    Column("psd", "psd", "PSD", "sum |x_adv - x| (1 - std_3x3(x))", "II-B2",
           "images in [0, 1]", "lower", "successful", psd, bounds=(0, math.inf)),
    Column("psd_inverse", "psd", "PSD inverse", "sum |x_adv - x| / max(std_3x3(x), 1/255), the text's form",
           "II-B2", "images in [0, 1]", "lower", "successful", psd_inverse,
           bounds=(0, math.inf), quick=False),
)  # fmt: skip

"""COS, classification output stability: how much a defense changes the whole output."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py

from deepsec_jax.metrics.defense_record import DefenseRecord, if_confident
from deepsec_jax.metrics.record import Column

# The largest float32 not above ln 2, so that the bound also holds in float64.
_LN_2 = np.nextafter(np.float32(np.log(2.0)), np.float32(0.0))


def cos(record: DefenseRecord) -> jax.Array:
    """Return the Jensen-Shannon divergence of both outputs [N], in [0, ln 2]; NaN without confidences."""
    # Vote shares and flags may have another number of columns than the raw model's classes.
    other = record.probabilities if record.confidences else record.probabilities_raw
    return if_confident(record, divergence(record.probabilities_raw, other))


def divergence(p: jax.Array, q: jax.Array) -> jax.Array:
    """Return the Jensen-Shannon divergence of the rows of ``p`` and ``q`` [N], in nats, in [0, ln 2].

        JSD = 1/2 sum_j p_j ln(2 p_j / (p_j + q_j)) + 1/2 sum_j q_j ln(2 q_j / (p_j + q_j))

    With d = (p - q) / (p + q), 2 p / (p + q) is 1 + d and 2 q / (p + q) is 1 - d.  So equal rows give exactly
    0, nearly equal rows keep their digits, and a probability of 0 needs no logarithm.

    Args:
        p: probabilities [N, K], each row with the sum 1.
        q: the same.
    """
    p, q = p.astype(jnp.float32), q.astype(jnp.float32)
    total = p + q
    d = jnp.where(total > 0, (p - q) / jnp.where(total > 0, total, 1.0), 0.0)
    terms = total / 4 * (xlog1py(1 + d, d) + xlog1py(1 - d, -d))
    return jnp.clip(jnp.sum(terms, axis=1), min=0.0, max=_LN_2)


DEFENSE_COLUMNS = (
    Column("cos", "cos", "COS", "Jensen-Shannon divergence of P(x) and P_D(x)", "II-D",
           "nats", "lower", "both correct", cos, bounds=(0, math.log(2)), needs_confidences=True),
)  # fmt: skip

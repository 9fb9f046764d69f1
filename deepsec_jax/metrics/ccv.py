"""CCV, classification confidence variance: how much a defense changes the confidence in the true class."""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.defense_record import DefenseRecord, if_confident
from deepsec_jax.metrics.record import Column


def ccv(record: DefenseRecord) -> jax.Array:
    """Return the change of the true class's softmax probability [N], in [0, 1]; NaN without confidences."""
    labels = record.labels[:, None]
    before = jnp.take_along_axis(record.probabilities_raw, labels, axis=1)[:, 0]
    after = jnp.take_along_axis(record.probabilities, labels, axis=1)[:, 0]
    return if_confident(record, jnp.abs(before - after))


DEFENSE_COLUMNS = (
    Column("ccv", "ccv", "CCV", "|P(x)_y - P_D(x)_y|", "II-D",
           "probability", "lower", "both correct", ccv, bounds=(0, 1), needs_confidences=True),
)  # fmt: skip

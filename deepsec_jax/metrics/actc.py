"""ACTC, average confidence of the true class."""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column


def actc(record: AttackRecord) -> jax.Array:
    """Return the softmax probability [B] that the model leaves to the true class on x_adv."""
    return jnp.take_along_axis(record.probabilities, record.labels[:, None], axis=-1)[:, 0]


COLUMNS = (
    Column("actc", "actc", "ACTC", "P_y(x_adv)", "II-B1", "probability", "lower", "successful", actc,
           bounds=(0, 1)),
)  # fmt: skip

"""ACAC, average confidence of the adversarial class."""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column


def acac(record: AttackRecord) -> jax.Array:
    """Return the softmax probability [B] of the class that the model finds on x_adv."""
    return jnp.max(record.probabilities, axis=-1)


COLUMNS = (
    Column("acac", "acac", "ACAC", "max_j P_j(x_adv)", "II-B1", "probability", "higher", "successful", acac,
           bounds=(0, 1)),
)  # fmt: skip

"""ACAC, average confidence of the adversarial class."""

import jax

from deepsec_jax.metrics.record import AttackRecord, Column


def acac(record: AttackRecord) -> jax.Array:
    """Return the softmax probability [B] of the predicted class of x_adv; NaN where no draw succeeded."""
    return record.adversarial


COLUMNS = (
    Column("acac", "acac", "ACAC", "max_j P_j(x_adv)", "II-B1", "probability", "higher", "successful", acac,
           bounds=(0, 1), needs_confidences=True),
)  # fmt: skip

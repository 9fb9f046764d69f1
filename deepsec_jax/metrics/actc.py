"""ACTC, average confidence of the true class."""

import jax

from deepsec_jax.metrics.record import AttackRecord, Column


def actc(record: AttackRecord) -> jax.Array:
    """Return the softmax probability [B] of the true class on x_adv; NaN where no draw succeeded."""
    return record.true


COLUMNS = (
    Column("actc", "actc", "ACTC", "P_y(x_adv)", "II-B1", "probability", "lower", "successful", actc,
           bounds=(0, 1), needs_confidences=True),
)  # fmt: skip

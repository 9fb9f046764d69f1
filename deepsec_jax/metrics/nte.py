"""NTE, noise tolerance estimation: the lead of the adversarial class over the next one."""

import jax

from deepsec_jax.metrics.record import AttackRecord, Column


def nte(record: AttackRecord) -> jax.Array:
    """Return the largest softmax probability minus the second largest [B]; NaN where no draw succeeded."""
    return record.lead


COLUMNS = (
    Column("nte", "nte", "NTE", "max_j P_j(x_adv) - second largest P_j(x_adv)", "II-B3",
           "probability", "higher", "successful", nte, bounds=(0, 1),
           needs_confidences=True),
)  # fmt: skip

"""CAV, classification accuracy variance: the accuracy that a defense gains, or loses if negative."""

import jax

from deepsec_jax.metrics.defense_record import DefenseRecord
from deepsec_jax.metrics.record import Column


def cav(record: DefenseRecord) -> jax.Array:
    """Return correct with the defense minus correct without it [N], in {-1, 0, 1} without draws."""
    return record.correct - record.correct_raw


DEFENSE_COLUMNS = (
    Column("cav", "cav", "CAV", "[F_D(x) = y] - [F(x) = y], on average Acc(F_D) - Acc(F) = CRR - CSR",
           "II-D", "share", "higher", "all", cav, rate=True, bounds=(-1, 1)),
)  # fmt: skip

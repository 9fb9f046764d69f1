"""CRR, classification rectify ratio: the share of images that a defense corrects."""

import jax

from deepsec_jax.metrics.defense_record import DefenseRecord
from deepsec_jax.metrics.record import Column


def crr(record: DefenseRecord) -> jax.Array:
    """Return 1 where the raw model is wrong and the defended one is correct [N], else 0.

    With draws, the share of pairs of independent draws.
    """
    return (1.0 - record.correct_raw) * record.correct


DEFENSE_COLUMNS = (
    Column("crr", "crr", "CRR", "share of all images with F(x) != y and F_D(x) = y", "II-D",
           "share", "higher", "all", crr, rate=True),
)  # fmt: skip

"""CSR, classification sacrifice ratio: the share of images that only the raw model gets right."""

import jax

from deepsec_jax.metrics.defense_record import DefenseRecord
from deepsec_jax.metrics.record import Column


def csr(record: DefenseRecord) -> jax.Array:
    """Return 1 where the raw model is correct and the defended one is wrong [N], else 0.

    With draws, the share of pairs of independent draws.
    """
    return record.correct_raw * (1.0 - record.correct)


DEFENSE_COLUMNS = (
    Column("csr", "csr", "CSR", "share of all images with F(x) = y and F_D(x) != y", "II-D",
           "share", "lower", "all", csr, rate=True),
)  # fmt: skip

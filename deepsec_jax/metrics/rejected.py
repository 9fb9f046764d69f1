"""Rejected: the share of adversarial images that a model with a detector rejects; not part of MR."""

import jax

from deepsec_jax.metrics.record import AttackRecord, Column


def rejected(record: AttackRecord) -> jax.Array:
    """Return 1 for each adversarial image that the model rejects, else 0 [B]; NaN if it cannot reject."""
    return record.rejected


COLUMNS = (
    Column("rejected", "mr", "Rejected", "share of adversarial images that the model refuses", "ours",
           "share", "lower", "all", rejected, rate=True, needs_rejection=True),
)  # fmt: skip

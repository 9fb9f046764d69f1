"""MR, misclassification rate: the share of attacked images on which the attack reached its goal."""

import jax

from deepsec_jax.metrics.record import AttackRecord, Column, success_on
from deepsec_jax.transforms import to_levels


def mr(record: AttackRecord) -> jax.Array:
    """Return the success of each image [B]: not the label, or the target of a targeted attack."""
    return record.success


def mr_8bit(record: AttackRecord) -> jax.Array:
    """Return the success [B] of each image after it is rounded to 8 bits, as a picture file would."""
    return success_on(record, to_levels(record.x_adv))


COLUMNS = (
    Column("mr", "mr", "MR", "share of images with argmax F(x_adv) != y, or == target", "II-B1",
           "share", "higher", "all", mr, rate=True),
    Column("mr_8bit", "mr", "MR 8 bit", "MR of round(255 x_adv) / 255", "ours",
           "share", "higher", "all", mr_8bit, rate=True),
)  # fmt: skip

"""MR, misclassification rate: the share of attacked images on which the attack reached its goal.

An error that occurs without the attack is no success.  A randomised model errs in some draws on clean images.
So success is counted draw by draw: the goal must be reached on x_adv and not on x, under the same keys.  This
equals clean less min(clean, attacked) of each draw, as in the tables of defenses under attack.

Candidates that are correct in every draw would be no alternative: they favour confident images, the next draw
may still err, and a model that always errs on some image has none.  The clean error is shown beside MR.
"""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column, classify, success_on
from deepsec_jax.transforms import to_levels


def mr(record: AttackRecord) -> jax.Array:
    """Return the success of each image [B]: the goal is reached on x_adv and not on the clean image."""
    return record.success


def clean_error(record: AttackRecord) -> jax.Array:
    """Return the share of draws in which the clean image already reaches the goal [B]."""
    return jnp.mean(record.before, axis=0, dtype=jnp.float32)


def mr_8bit(record: AttackRecord) -> jax.Array:
    """Return the success [B] when both images are rounded to 8 bits, as in an image file."""
    clean = classify(record.model, to_levels(record.x), record.labels, record.targets, record.draws)
    return success_on(record, to_levels(record.x_adv), before=clean.reached)


COLUMNS = (
    Column("mr", "mr", "MR", "share of images with argmax F(x_adv) != y, or == target, and F(x) not so",
           "II-B1", "share", "higher", "all", mr, rate=True),
    Column("clean_error", "mr", "Clean error", "share of images whose goal is reached before the attack, "
           "never counted in MR", "ours", "share", "neither", "all", clean_error, rate=True, hides_zero=True),
    Column("mr_8bit", "mr", "MR 8 bit", "MR of round(255 x_adv) / 255", "ours",
           "share", "higher", "all", mr_8bit, rate=True),
)  # fmt: skip

"""CC, computation cost of one adversarial example.

Wall time depends on the machine and the batch.  The numbers of gradients and forward passes do not.  Wall
time divided by the time of one bare gradient depends little on the machine.
"""

import math

import jax

from deepsec_jax.metrics.record import AttackRecord, Column


def cc(record: AttackRecord) -> jax.Array:
    """Return the wall time per image [B] in seconds, without compilation."""
    return record.seconds


def cc_gradients(record: AttackRecord) -> jax.Array:
    """Return the gradients of the model per image [B]; NaN if the attack does not report them."""
    return record.gradients


def cc_forwards(record: AttackRecord) -> jax.Array:
    """Return the forward passes per image, without those in gradients [B]; NaN if not reported."""
    return record.forwards


def cc_bare(record: AttackRecord) -> jax.Array:
    """Return the wall time in units of one bare gradient of the model [B]."""
    return record.seconds / record.gradient_seconds


COLUMNS = (
    Column("cc", "cc", "CC", "wall time per image, compilation apart", "II-B4",
           "s", "lower", "all", cc, bounds=(0, math.inf), measured_once=True),
    Column("cc_gradients", "cc", "CC gradients", "gradients of the model per image", "ours",
           "gradients", "lower", "all", cc_gradients, bounds=(0, math.inf)),
    Column("cc_forwards", "cc", "CC forwards", "forward passes per image beside the gradients", "ours",
           "forwards", "lower", "all", cc_forwards, bounds=(0, math.inf), quick=False),
    Column("cc_bare", "cc", "CC bare", "wall time / wall time of one bare gradient", "ours",
           "bare gradients", "lower", "all", cc_bare, bounds=(0, math.inf), measured_once=True),
)  # fmt: skip

"""CC, computation cost: what one adversarial example costs.

Wall time depends on the machine and the batch; gradients and forward passes do not, and wall time
divided by that of one bare gradient hardly does.
"""

import math

import jax

from deepsec_jax.metrics.record import AttackRecord, Column


def cc(record: AttackRecord) -> jax.Array:
    """Return the wall time per image [B] in seconds, compilation apart."""
    return record.seconds


def cc_gradients(record: AttackRecord) -> jax.Array:
    """Return the gradients of the model per image [B]; NaN where the attack does not say."""
    return record.gradients


def cc_forwards(record: AttackRecord) -> jax.Array:
    """Return the forward passes per image beside those in gradients [B]; NaN where it does not say."""
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

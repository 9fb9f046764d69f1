"""NTE, noise tolerance estimation: how far the adversarial class is ahead of the next one."""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column


def nte(record: AttackRecord) -> jax.Array:
    """Return the largest softmax probability minus the second largest [B]."""
    first, second = jnp.moveaxis(jax.lax.top_k(record.probabilities, 2)[0], -1, 0)
    return first - second


COLUMNS = (
    Column("nte", "nte", "NTE", "max_j P_j(x_adv) - second largest P_j(x_adv)", "II-B3",
           "probability", "higher", "successful", nte, bounds=(0, 1)),
)  # fmt: skip

"""All columns of one record: the device ones in one compiled program, the host ones after it."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from deepsec_jax.catalog import lookup
from deepsec_jax.jit import jit_per_class
from deepsec_jax.metrics.record import AttackRecord
from deepsec_jax.metrics.table import METRICS
from deepsec_jax.placement import on_host


def measure(record: AttackRecord, names: Sequence[str] = tuple(METRICS)) -> dict[str, np.ndarray]:
    """Return column name -> values [B] of one batch.

    The device columns share one jitted program, so common parts are computed once.

    Args:
        record: the attack's result on the batch.
        names: columns of :data:`METRICS`.

    Raises:
        UnknownName: a name that is not a column, with near matches.
    """
    columns = [lookup(METRICS, name, "metric") for name in names]
    on_device = _on_device(record, names=tuple(column.name for column in columns if not column.host))
    return {
        column.name: on_host(column.values(record) if column.host else on_device[column.name])
        for column in columns
    }


@partial(jit_per_class, static_argnames=("names",))
def _on_device(record: AttackRecord, *, names: tuple[str, ...]) -> dict[str, jax.Array]:
    return {name: METRICS[name].values(record) for name in names}

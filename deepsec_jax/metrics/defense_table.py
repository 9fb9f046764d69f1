"""The table of utility metrics of defenses: column name -> description and function."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from deepsec_jax.catalog import lookup
from deepsec_jax.jit import jit_per_class
from deepsec_jax.metrics import cav, ccv, cos, crr, csr
from deepsec_jax.metrics.defense_record import NO_CONFIDENCES, DefenseRecord
from deepsec_jax.metrics.record import Column

DEFENSE_MODULES = (cav, crr, csr, ccv, cos)
"""One module per metric of the paper, in the paper's order; a new metric is one more entry."""

DEFENSE_METRICS: dict[str, Column] = {
    column.name: column for module in DEFENSE_MODULES for column in module.DEFENSE_COLUMNS
}
"""Every column by name, in the order of tables; ``better`` is from the defender's side."""


def measure_defense(
    record: DefenseRecord, names: Sequence[str] = tuple(DEFENSE_METRICS)
) -> dict[str, np.ndarray]:
    """Return column name -> values [N], in one compiled program.

    CCV and COS have a value for every image; :func:`~deepsec_jax.metrics.summarise` averages them over
    those of :func:`~deepsec_jax.metrics.both_correct`.

    Args:
        record: outputs of both models.
        names: columns of :data:`DEFENSE_METRICS`.

    Raises:
        UnknownName: a name that is not a column, with near matches.
    """
    columns = [lookup(DEFENSE_METRICS, name, "defense metric") for name in names]
    values = _on_device(record, names=tuple(column.name for column in columns))
    return {column.name: np.asarray(values[column.name]) for column in columns}


@partial(jit_per_class, static_argnames=("names",))
def _on_device(record: DefenseRecord, *, names: tuple[str, ...]) -> dict[str, jax.Array]:
    return {name: DEFENSE_METRICS[name].values(record) for name in names}


def not_applicable(record: DefenseRecord, column: Column) -> str | None:
    """Return why the column has no values on this record, or None if it has."""
    return NO_CONFIDENCES if column.needs_confidences and not record.confidences else None

"""The version of every metric column of run directories."""

from deepsec_jax.evaluation.adaptive import REJECTION_COLUMNS, ROBUSTNESS_COLUMNS
from deepsec_jax.evaluation.utility import utility_columns
from deepsec_jax.metrics import METRICS, Column

_TABLES = (METRICS, utility_columns(rejecting=True), ROBUSTNESS_COLUMNS, REJECTION_COLUMNS)


def column_versions() -> dict[str, int]:
    """Return column -> version, for :class:`deepsec_jax.runs.store.Store`.

    If cells of two kinds have columns of one name, the higher version is used for both.
    """
    found: dict[str, int] = {}
    columns: list[Column] = [column for table in _TABLES for column in table.values()]
    for column in columns:
        found[column.name] = max(column.version, found.get(column.name, 1))
    return found

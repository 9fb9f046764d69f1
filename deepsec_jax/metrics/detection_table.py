"""The table of detection metrics: column name -> description and function."""

from dataclasses import replace

import numpy as np

from deepsec_jax.metrics import auc, detection
from deepsec_jax.metrics.auc import auc_interval
from deepsec_jax.metrics.detection_record import DetectionRecord
from deepsec_jax.metrics.record import Column
from deepsec_jax.metrics.summary import Summary, summarise

DETECTION_MODULES = (detection, auc)
"""The modules that have columns; a new metric is one more."""

_ORDER = ("tpr", "fpr", "auc", "evasion")  # the paper's three first
_COLUMNS = {column.name: column for module in DETECTION_MODULES for column in module.DETECTION_COLUMNS}

DETECTION_METRICS: dict[str, Column] = {name: _COLUMNS[name] for name in _ORDER} | _COLUMNS
"""Every column by name, in the order of tables; ``better`` is from the defender's side.

``over`` is "successful" or "all" (of the attacked images), or "clean" (test images, the same for every
attack).
"""


def summarise_detection(column: Column, record: DetectionRecord) -> Summary:
    """Return mean, n and 95 % interval of a column; an AUC's interval accounts for both samples.

    Args:
        column: one of :data:`DETECTION_METRICS`.
        record: one detector against one attack.
    """
    values = np.asarray(column.values(record), np.float64)
    chosen = np.ones(len(values)) if column.over == "clean" else record.success
    summary = summarise(column, values, chosen)
    if column.metric != "auc" or not summary.n:
        return summary
    scores = record.scores if column.over == "all" else record.scores[np.asarray(record.success) >= 0.5]
    low, high = auc_interval(scores, record.clean)
    return replace(summary, low=low, high=high)

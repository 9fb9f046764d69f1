"""Utility metrics: functions from one immutable record to one value per example; one function averages.

Of attacks:

    record = evaluation.record_of(model, x, x_adv, labels)
    values = metrics.METRICS["ass"].values(record)          # float[B]
    metrics.summarise(metrics.METRICS["ass"], values, record.success)

Of defenses:

    record = metrics.defense_record_of(raw, defended, x, labels)
    values = metrics.measure_defense(record)["cos"]         # float[N]
    metrics.summarise(metrics.DEFENSE_METRICS["cos"], values, metrics.both_correct(record))

Of detectors (all of them on the host):

    record = metrics.DetectionRecord(scores, success, clean, correct, threshold)
    metrics.summarise_detection(metrics.DETECTION_METRICS["auc"], record)

Columns marked ``host`` use NumPy or an image codec; all others are pure functions on the device.
"""

from deepsec_jax.metrics.defense_record import DefenseRecord, both_correct, defense_record_of
from deepsec_jax.metrics.defense_table import DEFENSE_METRICS, measure_defense, not_applicable
from deepsec_jax.metrics.detection import fpr_limits, roc
from deepsec_jax.metrics.detection_record import DetectionRecord
from deepsec_jax.metrics.detection_table import DETECTION_METRICS, summarise_detection
from deepsec_jax.metrics.measure import measure
from deepsec_jax.metrics.record import Answers, AttackRecord, Column, classify, success_on
from deepsec_jax.metrics.summary import Summary, average, summarise
from deepsec_jax.metrics.table import METRICS

__all__ = [
    "DEFENSE_METRICS",
    "DETECTION_METRICS",
    "METRICS",
    "Answers",
    "AttackRecord",
    "Column",
    "DefenseRecord",
    "DetectionRecord",
    "Summary",
    "average",
    "both_correct",
    "classify",
    "defense_record_of",
    "fpr_limits",
    "measure",
    "measure_defense",
    "not_applicable",
    "roc",
    "success_on",
    "summarise",
    "summarise_detection",
]


def __dir__() -> list[str]:
    return __all__

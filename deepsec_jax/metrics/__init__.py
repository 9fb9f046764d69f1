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

from deepsec_jax.metrics.defense_record import DefenseRecord as DefenseRecord
from deepsec_jax.metrics.defense_record import both_correct as both_correct
from deepsec_jax.metrics.defense_record import defense_record_of as defense_record_of
from deepsec_jax.metrics.defense_table import DEFENSE_METRICS as DEFENSE_METRICS
from deepsec_jax.metrics.defense_table import measure_defense as measure_defense
from deepsec_jax.metrics.defense_table import not_applicable as not_applicable
from deepsec_jax.metrics.detection import fpr_limits as fpr_limits
from deepsec_jax.metrics.detection import roc as roc
from deepsec_jax.metrics.detection_record import DetectionRecord as DetectionRecord
from deepsec_jax.metrics.detection_table import DETECTION_METRICS as DETECTION_METRICS
from deepsec_jax.metrics.detection_table import summarise_detection as summarise_detection
from deepsec_jax.metrics.measure import measure as measure
from deepsec_jax.metrics.record import Answers as Answers
from deepsec_jax.metrics.record import AttackRecord as AttackRecord
from deepsec_jax.metrics.record import Column as Column
from deepsec_jax.metrics.record import classify as classify
from deepsec_jax.metrics.record import success_on as success_on
from deepsec_jax.metrics.summary import Summary as Summary
from deepsec_jax.metrics.summary import summarise as summarise
from deepsec_jax.metrics.table import METRICS as METRICS

"""Attack utility metrics: one immutable record in, one value per example out, and one place that averages.

    record = evaluation.record_of(model, x, x_adv, labels)
    values = metrics.METRICS["ass"].values(record)          # float[B]
    metrics.summarise(metrics.METRICS["ass"], values, record.success)

Columns marked ``host`` go through a real picture codec; all others are pure functions on the device.
"""

from deepsec_jax.metrics.measure import measure as measure
from deepsec_jax.metrics.record import AttackRecord as AttackRecord
from deepsec_jax.metrics.record import Column as Column
from deepsec_jax.metrics.record import classify as classify
from deepsec_jax.metrics.record import success_on as success_on
from deepsec_jax.metrics.summary import Summary as Summary
from deepsec_jax.metrics.summary import summarise as summarise
from deepsec_jax.metrics.table import METRICS as METRICS

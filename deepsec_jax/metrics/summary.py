"""The one place that averages: mean, number of examples, 95 % interval; never a crash on none."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from deepsec_jax.metrics.record import Column


@dataclass(frozen=True)
class Summary:
    """A mean with its uncertainty.

    Attributes:
        mean: in the column's unit; NaN where n is 0.
        n: examples with a value that was averaged over.
        low: lower end of the 95 % interval; NaN where there is none.
        high: upper end.
    """

    mean: float
    n: int
    low: float
    high: float


def summarise(column: Column, values: np.ndarray, success: np.ndarray) -> Summary:
    """Average a column over the examples it is meant for, in float64.

    A share of yes and no has Wilson's interval, any other mean Student's, which for shares of draws ends at 0
    and 1.  Values that are NaN (no such figure for this example) are left out of mean and n.

    Args:
        column: what the values are.
        values: one per example [N].
        success: what ``column.over`` asks for, per example [N]: success of the attack, or, for a metric of
            defenses, :func:`~deepsec_jax.metrics.both_correct`; at least half of the draws counts.
    """
    values = np.asarray(values, np.float64)
    chosen = values if column.over == "all" else values[np.asarray(success) >= 0.5]
    chosen = chosen[~np.isnan(chosen)]
    n = len(chosen)
    if not n:
        return Summary(math.nan, 0, math.nan, math.nan)
    mean = float(chosen.mean())
    low, high = _interval(column, chosen, mean)
    return Summary(mean, n, low, high)


def _interval(column: Column, values: np.ndarray, mean: float) -> tuple[float, float]:
    if column.rate and bool(np.isin(values, (0.0, 1.0)).all()):
        interval = stats.binomtest(int(values.sum()), len(values)).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)
    if len(values) < 2 or column.measured_once:
        return math.nan, math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0.0:
        return mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    if column.rate:  # Student's knows of no ends; near 0 and 1 it would leave what a share can be
        return max(0.0, float(low)), min(1.0, float(high))
    return float(low), float(high)

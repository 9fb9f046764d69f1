"""The only place that averages: mean, number of examples, 95 % interval; NaN without examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from deepsec_jax.metrics.bounded_mean import bounded_mean_interval
from deepsec_jax.metrics.paired import paired_interval
from deepsec_jax.metrics.record import Column


@dataclass(frozen=True)
class Summary:
    """A mean with its uncertainty.

    Attributes:
        mean: in the column's unit; NaN where n is 0.
        n: number of averaged values.
        low: lower end of the 95 % interval, inside the column's bounds; NaN if there is none.
        high: upper end.
    """

    mean: float
    n: int
    low: float
    high: float


def summarise(column: Column, values: np.ndarray, success: np.ndarray) -> Summary:
    """Average a column over its examples (``column.over``), in float64.

    A mean of bounded values has Gaffke's interval, which for values 0 and 1 is Clopper and Pearson's.  A
    difference of such values over the same examples has Tango's.  Without an upper bound it is Student's t
    interval, cut off at the lower bound.  There is no interval if n is 1 or all values are equal, nor for a
    time measured once for all images.  NaN values (no such figure for this example) are left out of mean and
    n.

    Args:
        column: of the values.
        values: one per example [N].
        success: condition of ``column.over`` per example [N]: success of the attack, or, for a metric of
            defenses, :func:`~deepsec_jax.metrics.both_correct`; at least half of the draws counts.
    """
    values = np.asarray(values, np.float64)
    chosen = values if column.over == "all" else values[np.asarray(success) >= 0.5]
    chosen = chosen[~np.isnan(chosen)]
    n = len(chosen)
    if not n:
        return Summary(math.nan, 0, math.nan, math.nan)
    low, high = _interval(column, chosen)
    return Summary(float(chosen.mean()), n, low, high)


def average(summaries: Sequence[Summary]) -> Summary:
    """Return the mean of means, e.g. over attacks, as the paper prints it; n counts the means.

    The means are often over the same images, so they may err together.  The ends of the interval are
    therefore the means of the ends, as if they did.  A mean without an interval leaves none.
    """
    if not summaries:
        return Summary(math.nan, 0, math.nan, math.nan)
    ends = [[each.mean, each.low, each.high] for each in summaries]
    mean, low, high = (float(value) for value in np.mean(np.asarray(ends, np.float64), axis=0))
    return Summary(mean, len(summaries), low, high)


def _interval(column: Column, values: np.ndarray) -> tuple[float, float]:
    if column.measured_once:
        return math.nan, math.nan
    low, high = column.limits
    if column.rate and low < 0.0 and bool(np.isin(values, (-1.0, 0.0, 1.0)).all()):
        return paired_interval(int((values > 0).sum()), int((values < 0).sum()), len(values))
    if math.isfinite(low) and math.isfinite(high):
        return bounded_mean_interval(values, low, high)
    error = float(stats.sem(values)) if len(values) > 1 and np.ptp(values) > 0 else 0.0
    if not error > 0.0:
        return math.nan, math.nan
    ends = stats.t.interval(0.95, len(values) - 1, loc=float(values.mean()), scale=error)
    return max(low, float(ends[0])), min(high, float(ends[1]))

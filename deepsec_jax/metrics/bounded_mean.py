"""The interval of a mean of bounded values: it stays inside the bounds and never has width zero."""

import math

import numpy as np
from scipy import optimize

MANY = 100
"""With at least this many distinct values fewer nodes give the same digits."""


def bounded_mean_interval(
    values: np.ndarray, low: float, high: float, *, level: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of the mean of independent values in [low, high] (Gaffke 2005).

    Its lower end is a quantile of the weighted mean

        w_0 low + w_1 x_1 + ... + w_n x_n,     w uniform over all weights that sum to 1,

    as if the sample had one more value, at the bound; its upper end is the same with ``high``.  The interval
    does not depend on the order of the values and needs no normal distribution.  With n equal values it still
    has positive width, for rare other values.

    For values 0 and 1 it is the exact interval of Clopper and Pearson, and its coverage is proven.  For other
    distributions the coverage is a conjecture without a known counterexample.
    ``tests/metrics/test_bounded_mean.py`` measures it.

    Args:
        values: [N], at least one; rounding beyond a bound is cut off.
        low: smallest possible value.
        high: largest possible value.
        level: of confidence.

    Returns:
        Both ends, low <= lower <= mean <= upper <= high.

    References:
        Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
        variable", Mathematical Methods of Statistics 14, 2005; Learned-Miller and Thomas, "A New Confidence
        Interval for the Mean of a Bounded Random Variable", arXiv:1905.06208.
    """
    inside = np.clip(np.asarray(values, np.float64), low, high)
    tail = (1.0 - level) / 2.0
    return _lower_end(inside, low, tail), -_lower_end(-inside, -high, tail)


def _lower_end(values: np.ndarray, bound: float, tail: float) -> float:
    distinct, counts = np.unique(values, return_counts=True)
    mean = float(values.mean())
    span = mean - bound
    if not span > 0.0:
        return bound

    def excess(end: float) -> float:
        return math.log(max(_chance_below(distinct, counts, bound, end), 1e-300) / tail)

    return float(optimize.brentq(excess, bound + 1e-9 * span, mean, xtol=1e-9 * span))


def chance_below(values: np.ndarray, bound: float, end: float) -> float:
    """Return the probability that the randomly weighted mean of values and lower bound is at most ``end``.

    It is the p-value of the hypothesis that the true mean is at most ``end``.

    Args:
        values: [N].
        bound: at most the smallest of them.
        end: above the bound.
    """
    return _chance_below(*np.unique(values, return_counts=True), bound, end)


def _chance_below(distinct: np.ndarray, counts: np.ndarray, bound: float, end: float) -> float:
    """Return P(sum_i E_i (x_i - end) <= 0), E_i exponential: uniform weights are exponentials over their sum.

    Computed by the inversion integral of the sum's characteristic function, on a line through the saddle
    point. There the integrand does not oscillate near its centre, so the trapezoidal rule converges fast.
    """
    shifts = np.append(distinct, bound) - end
    weights = np.append(counts, 1).astype(np.float64)
    if shifts.max() <= 0.0:
        return 1.0
    leftmost = 1.0 / float(shifts.min())

    def slope(s: float) -> float:
        return float((weights * shifts / (1.0 - s * shifts)).sum()) - 1.0 / s

    saddle = float(
        optimize.brentq(slope, leftmost * (1 - 1e-9), leftmost * 1e-12, xtol=-1e-14 * leftmost, rtol=1e-3)
    )
    scales = 1.0 - saddle * shifts
    ratios = shifts / scales
    width = 1.0 / math.sqrt(float((weights * ratios**2).sum()) + saddle**-2)
    nodes = np.linspace(0.0, 8.0, 97) if len(distinct) < MANY else np.linspace(0.0, 5.0, 33)
    heights = width * np.sinh(nodes)
    turned = heights[:, None] * ratios[None, :]
    size = -float((weights * np.log(scales)).sum()) - 0.5 * (np.log1p(turned**2) * weights).sum(axis=1)
    angle = (np.arctan(turned) * weights).sum(axis=1) - np.arctan2(heights, saddle)
    integrand = np.exp(size) * np.cos(angle) / np.hypot(saddle, heights) * width * np.cosh(nodes)
    area = float(integrand.sum() - 0.5 * integrand[0]) * float(nodes[1])
    return min(max(-area / math.pi, 0.0), 1.0)

"""AUC: the probability that an attacked image has a higher score than a clean one, and its interval."""

import math

import numpy as np
from scipy import optimize, special, stats

from deepsec_jax.metrics.detection_record import DetectionRecord, ordered
from deepsec_jax.metrics.record import Column

_Z = float(stats.norm.ppf(0.975))


def auc(record: DetectionRecord) -> np.ndarray:
    """Return for each attacked image the share of clean ones with a lower score [N]; ties count half.

    Its mean is the area under the ROC curve (Mann and Whitney's U over N M); NaN without clean images.
    """
    return placements(record.scores, record.clean)


def placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each score the share of the others that are lower, float64 [N]; ties count half."""
    if not len(others):
        return np.full(len(scores), np.nan)
    values, sorted_others = ordered(scores), np.sort(ordered(others))
    below, not_above = (np.searchsorted(sorted_others, values, side) for side in ("left", "right"))
    return (below + not_above) / (2.0 * len(others))


def auc_interval(scores: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the AUC of these scores, for the sampling error of both samples.

    The hull of two intervals, since each is too short in some cases: DeLong's with few images and a high AUC,
    Newcombe's if the two samples have different spreads.  Both assume independent images, although
    adversarial images are made from some of the clean ones.

    Args:
        scores: of attacked images [N].
        clean: of clean images [M].
    """
    if not len(scores) or not len(clean):
        return math.nan, math.nan
    low, high = score_interval(float(placements(scores, clean).mean()), len(scores), len(clean))
    further = delong_interval(scores, clean)
    return (low, high) if further is None else (min(low, further[0]), max(high, further[1]))


def delong_interval(scores: np.ndarray, clean: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval by DeLong's variance (1988) on the logit scale.

    None if that variance is undefined or 0: a sample of one image, or no pair out of order.
    """
    attacked, normal = placements(scores, clean), 1.0 - placements(clean, scores)
    area = float(attacked.mean())
    if len(attacked) < 2 or len(normal) < 2 or not 0.0 < area < 1.0:
        return None
    variance = attacked.var(ddof=1) / len(attacked) + normal.var(ddof=1) / len(normal)
    half = _Z * math.sqrt(variance) / (area * (1.0 - area))
    low, high = special.expit(special.logit(area) + np.array((-half, half)))
    return float(low), float(high)


def score_interval(area: float, attacked: int, clean: int) -> tuple[float, float]:
    """Return the 95 % score interval of Newcombe (2006, method 5), after Hanley and McNeil (1982).

    The ends solve |area - A| = 1.96 sqrt(V(A)), V with both sample sizes less one replaced by their mean, so
    that an area of 1 has a lower end below 1.

    Args:
        area: the AUC found, in [0, 1].
        attacked: N, at least 1.
        clean: M, at least 1.
    """
    mean = (attacked + clean) / 2.0 - 1.0

    def excess(true: float) -> float:
        pairs = 1.0 + mean * ((1.0 - true) / (2.0 - true) + true / (1.0 + true))
        variance = true * (1.0 - true) * pairs / (attacked * clean)
        return (area - true) ** 2 - _Z**2 * variance

    tiny = 1e-12
    inside = min(max(area, tiny), 1.0 - tiny)
    low = optimize.brentq(excess, tiny, inside) if excess(tiny) > 0.0 else 0.0
    high = optimize.brentq(excess, inside, 1.0 - tiny) if excess(1.0 - tiny) > 0.0 else 1.0
    return float(low), float(high)


DETECTION_COLUMNS = (
    Column("auc", "auc", "AUC", "area under the ROC curve of successful adversarial against all clean test "
           "images: the share of pairs in order, ties for half", "IV-C", "share", "higher", "successful", auc,
           bounds=(0, 1), host=True),
    Column("auc_all", "auc", "AUC all", "the same of all attacked against all clean test images", "ours",
           "share", "higher", "all", auc, bounds=(0, 1), host=True, quick=False),
)  # fmt: skip

"""TPR, FPR and evasion of a detector at its threshold, and the ROC curve over all thresholds."""

import math

import numpy as np
from scipy import stats

from deepsec_jax.metrics.detection_record import DetectionRecord, flagged, ordered
from deepsec_jax.metrics.record import Column


def tpr(record: DetectionRecord) -> np.ndarray:
    """Return 1 for each flagged attacked image [N], else 0."""
    return flagged(record.scores, record.threshold).astype(np.float64)


def fpr(record: DetectionRecord) -> np.ndarray:
    """Return 1 for each flagged clean image [M], else 0."""
    return flagged(record.clean, record.threshold).astype(np.float64)


def fpr_correct(record: DetectionRecord) -> np.ndarray:
    """The same [M], with NaN where the classifier is wrong in most draws: the paper's normal examples."""
    return np.where(record.correct >= 0.5, fpr(record), np.nan)


def evasion(record: DetectionRecord) -> np.ndarray:
    """Return the share of draws in which an attacked image fools the classifier; 0 if it is flagged [N]."""
    return np.where(flagged(record.scores, record.threshold), 0.0, np.asarray(record.success, np.float64))


def fooled(record: DetectionRecord) -> np.ndarray:
    """Return the share of draws in which an attacked image fools the classifier, flagged or not [N]."""
    return np.asarray(record.success, np.float64)


def roc(scores: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return FPR and TPR [T + 1] of every threshold that changes them, from (0, 0) to (1, 1).

    Args:
        scores: of attacked images [N].
        clean: of clean images [M].
    """
    attacked, normal = np.sort(ordered(scores)), np.sort(ordered(clean))
    thresholds = np.unique(np.concatenate((attacked, normal)))[::-1]

    def at_or_above(values: np.ndarray) -> np.ndarray:
        count = len(values) - np.searchsorted(values, thresholds, "left")
        return np.concatenate(([0.0], count / max(len(values), 1)))

    return at_or_above(normal), at_or_above(attacked)


def fpr_limits(fpr: float, validation: int, tests: int, *, level: float = 0.99) -> tuple[float, float]:
    """Return the interval of the FPR on test images, with the sampling error of both samples.

    A threshold with k = floor(fpr m) of m validation scores above it is an order statistic.  So its true FPR
    follows Beta(k + 1, m - k) for any distribution of scores, and the number of flagged test images a
    beta-binomial distribution (Wilks 1941).  Exact without ties; with ties fewer are flagged.

    Args:
        fpr: nominal rate of the threshold, in [0, 1).
        validation: m, number of clean images that set it.
        tests: number of clean test images.
        level: minimum probability of the interval.
    """
    if not validation or not tests:
        return 0.0, 1.0
    above = math.floor(round(fpr * validation, 9))
    law = stats.betabinom(tests, above + 1, validation - above)
    low, high = law.ppf(((1 - level) / 2, (1 + level) / 2))
    return float(low) / tests, float(high) / tests


DETECTION_COLUMNS = (
    Column("tpr", "tpr", "TPR", "share of successful adversarial images with a score above the threshold",
           "IV-C", "share", "higher", "successful", tpr, rate=True, host=True),
    Column("fpr", "fpr", "FPR", "share of all clean test images with a score above the threshold",
           "IV-C", "share", "lower", "clean", fpr, rate=True, host=True),
    Column("fpr_correct", "fpr", "FPR correct", "FPR over clean test images that the classifier gets right",
           "IV-C", "share", "lower", "clean", fpr_correct, rate=True, host=True, quick=False),
    Column("tpr_all", "tpr", "TPR all", "share of all attacked images with a score above the threshold",
           "ours", "share", "higher", "all", tpr, rate=True, host=True, quick=False),
    Column("evasion", "evasion", "Evasion", "share of all attacked images that fool the classifier and are "
           "not flagged", "ours", "share", "lower", "all", evasion, rate=True, host=True),
    Column("mr", "mr", "MR", "share of all attacked images that fool the classifier, flagged or not", "II-B1",
           "share", "lower", "all", fooled, rate=True, host=True, quick=False),
)  # fmt: skip

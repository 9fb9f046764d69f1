"""The input of a detection metric: scores of attacked and of clean images, and one threshold."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class DetectionRecord:
    """One detector against one attack; read-only host arrays.

    Attributes:
        scores: of the attacked images [N], high = suspicious; NaN counts as the highest.
        success: share of draws in which the attack fooled the classifier [N]; 0 or 1 on a deterministic one.
        clean: scores of clean test images [M], the same for every attack.
        correct: share of draws in which the classifier is correct on them [M].
        threshold: scores above it are flagged; the same for every attack.
    """

    scores: np.ndarray
    success: np.ndarray
    clean: np.ndarray
    correct: np.ndarray
    threshold: float


def flagged(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return bool [N]: above the threshold, or NaN; the rule of ``FittedDetector.flags``."""
    return ~(np.asarray(scores) <= threshold)


def ordered(scores: np.ndarray) -> np.ndarray:
    """Return the scores as float64, with NaN replaced by the highest."""
    values = np.asarray(scores, np.float64)
    return np.where(np.isnan(values), np.inf, values)

"""A claim as a test: one statistic, its interval over resampled images, a bound, and a verdict."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIRMED, REFUTED, UNDECIDED, NOT_MEASURED = (
    "confirmed",
    "refuted",
    "not decidable at this n",
    "not measured",
)
"""The verdicts."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Claim:
    """What is claimed, and how it is tested.

    Attributes:
        key: e.g. ``3a``; the number of the remark, or R and the number of the finding.
        says: the claim, one sentence.
        statistic: what is computed, one line.
        bound: the claim holds if the statistic is beyond it.
        above: whether it must be above the bound, or below.
    """

    key: str
    says: str
    statistic: str
    bound: float = 0.0
    above: bool = True


@dataclass(frozen=True)
class Verdict:
    """The result of a claim's test.

    Attributes:
        claim: that was tested.
        value: of the statistic; NaN if it was not measured.
        low: lower end of its 95 % interval.
        high: upper end.
        n: number of images.
        over: what it was computed over, or what is missing.
    """

    claim: Claim
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    over: str = ""

    @property
    def text(self) -> str:
        """The verdict: confirmed or refuted if the whole interval lies on one side of the bound."""
        if math.isnan(self.value):
            return NOT_MEASURED
        side = 1.0 if self.claim.above else -1.0
        ends = sorted(side * (end - self.claim.bound) for end in (self.low, self.high))
        if math.isnan(ends[0]) or math.isnan(ends[1]):
            return UNDECIDED
        return CONFIRMED if ends[0] > 0 else REFUTED if ends[1] < 0 else UNDECIDED


def not_measured(claim: Claim, lacking: str) -> Verdict:
    """Return the verdict of a claim whose cells are missing."""
    return Verdict(claim, over=lacking)


def resampled(n: int, *, seed: int = 0) -> np.ndarray:
    """Return how often each of n images is drawn in each resample, float64 [RESAMPLES + 1, n].

    The first row is the sample itself.
    """
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    return np.concatenate([np.ones((1, n)), drawn]).astype(np.float64)


def means(weights: np.ndarray, values: np.ndarray, over: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of values in every resample, [R]; NaN in one without such images.

    Args:
        weights: of :func:`resampled`, [R, n].
        values: one per image [n]; NaN is left out.
        over: images of the mean, bool [n]; all by default.
    """
    chosen = ~np.isnan(values) if over is None else ~np.isnan(values) & over
    known = weights @ chosen.astype(np.float64)
    total = weights @ np.where(chosen, values, 0.0)
    return np.where(known > 0, total / np.where(known > 0, known, 1.0), np.nan)


def known_mean(values: Any, axis: int) -> np.ndarray:
    """Return the mean over an axis without NaN; NaN where all values are."""
    return np.asarray(np.ma.masked_invalid(values).mean(axis=axis).filled(np.nan))


def known_least(values: Any, axis: int) -> np.ndarray:
    """Return the smallest value over an axis without NaN; NaN where all values are."""
    return np.asarray(np.ma.masked_invalid(values).min(axis=axis).filled(np.nan))


def tested(claim: Claim, statistic: np.ndarray, n: int, over: str) -> Verdict:
    """Return the verdict for a statistic in every resample: percentiles of its finite values.

    Args:
        claim: the claim.
        statistic: [R]; the first entry is that of the sample itself.
        n: number of images.
        over: what it was computed over.
    """
    value, draws = float(statistic[0]), statistic[1:][np.isfinite(statistic[1:])]
    if math.isnan(value) or not len(draws):
        return Verdict(claim, over=f"{over}: the statistic has no value")
    low, high = (float(end) for end in np.quantile(draws, (0.025, 0.975)))
    return Verdict(claim, value, low, high, n, over)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rank correlation over the columns of two arrays [R, A], for each row; ties share ranks."""
    ranks = [stats.rankdata(each, axis=1) for each in (one, other)]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    product = (centred[0] * centred[1]).sum(axis=1)
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    return np.where(scale > 0, product / np.where(scale > 0, scale, 1.0), np.nan)


def table(names: Sequence[str], column: Callable[[str], np.ndarray]) -> np.ndarray:
    """Return the resampled means of several attacks or defenses side by side, [R, A]."""
    return np.stack([column(name) for name in names], axis=1)

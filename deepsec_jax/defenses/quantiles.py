"""The quantile of a score among clean scores, as a strictly increasing map that does not saturate."""

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.defenses.base import DefenseError
from deepsec_jax.pytree import Struct


class Quantiles(Struct):
    """Score -> approximate share of clean scores below it.

    Piecewise linear through the clean scores, each at its quantile.  Beyond the smallest and the largest it
    continues with the mean slope from the median to that end.  So it is below 0 or above 1 there, and its
    gradient does not vanish.

    Attributes:
        scores: distinct clean scores, increasing [M].
        levels: their quantiles, increasing [M].
        slopes: slopes before the first and after the last score [2].
    """

    scores: jax.Array
    levels: jax.Array
    slopes: jax.Array

    def __call__(self, scores: jax.Array) -> jax.Array:
        """Return the quantiles of scores [B]."""
        between = jnp.interp(scores, self.scores, self.levels)
        below = self.slopes[0] * jnp.minimum(scores - self.scores[0], 0.0)
        above = self.slopes[1] * jnp.maximum(scores - self.scores[-1], 0.0)
        return between + below + above

    def score_at(self, level: float) -> float:
        """Return the score whose quantile is ``level``; host code, the inverse of the call."""
        scores, levels = np.asarray(self.scores, np.float64), np.asarray(self.levels, np.float64)
        below = min(level - levels[0], 0.0) / float(self.slopes[0])
        above = max(level - levels[-1], 0.0) / float(self.slopes[1])
        return float(np.interp(level, levels, scores) + below + above)


def fit_quantiles(clean: np.ndarray) -> Quantiles:
    """Return the map of clean scores [N]; host code.

    Equal scores of several images get the mean of their ranks.

    Raises:
        DefenseError: fewer than two distinct scores, or a NaN.
    """
    clean = np.asarray(clean, np.float32)
    scores, counts = np.unique(clean, return_counts=True)
    if len(scores) < 2 or not np.isfinite(scores).all():
        raise DefenseError(
            f"{len(clean)} clean images give {len(scores)} distinct scores, or one that is no number: give "
            "more clean images"
        )
    ends, total = np.cumsum(counts), len(clean)
    levels = (ends - counts / 2) / total
    middle = float(np.median(clean))
    whole = (levels[-1] - levels[0]) / (float(scores[-1]) - float(scores[0]))
    slopes = [
        abs(levels[end] - 0.5) / abs(scores[end] - middle) if scores[end] != middle else whole
        for end in (0, -1)
    ]
    as_device = [jnp.asarray(each, jnp.float32) for each in (scores, levels, slopes)]
    return Quantiles(*as_device)

"""FS: feature squeezing, a detector that compares what a model says of an image and of simpler ones."""

import math
import os
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import Base, DefenseError, check_keepable, keep_network
from deepsec_jax.defenses.detector import FPR, FittedDetector, draw, fitting_and_validation
from deepsec_jax.defenses.detector_files import has_arrays, keep_arrays, kept_arrays
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.protocols import Classifier, Images, Key, Logits, Scalar
from deepsec_jax.pytree import Struct, static
from deepsec_jax.training import Saved, load_network
from deepsec_jax.transforms import median_2x2, non_local_means, to_levels

IDENTICAL = -1e4
"""The log-odds of outputs that do not differ: below all that logits of usual size can make."""


WIDTH = 0.1
"""Of the stairs in rounding's gradient, in distances of levels."""


class FS(Struct):
    """Flag an image of which the model says something else once it is squeezed; nothing is trained.

        score = max over squeezers s of |softmax z(x) - softmax z(s(x))|_1,     from 0 to 2

    The distance saturates at 2, its gradient is 0 in float32 on confident models, and rounding has none at
    all.  The surrogate flags the same images by the distance's log-odds, see :class:`LogOdds`.

    Attributes:
        bits: levels are rounded to, static; 0 leaves this squeezer out.
        median: whether the 2 x 2 median is one, static.
        search: side of the search window of non-local means, static; 0 leaves them out.
        patch: side of their patches, static.
        strength: of non-local means, in grey levels of 0 .. 255.
        fpr: the false positive rate that sets the threshold.
        images: held-out clean images at most that it is set on, static.

    References:
        Xu, Evans, Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS
        2018, arXiv:1704.01155.
    """

    bits: int = static(1)
    median: bool = static(True)
    search: int = static(0)
    patch: int = static(3)
    strength: Scalar = 2.0
    fpr: float = FPR
    images: int = static(5000)

    keeps_network: ClassVar[bool] = True
    confidences: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        name="FS",
        title="Feature squeezing",
        reference="Xu et al., NDSS 2018, arXiv:1704.01155",
        goal="detection",
        kind="input transformation",
    )

    def __post_init__(self) -> None:
        if not (self.bits or self.median or self.search):
            raise DefenseError("FS has no squeezer to compare with: give bits, median or search")
        if not 0 <= self.bits <= 16:
            raise DefenseError(f"FS.bits must lie between 0 (left out) and 16, got {self.bits}")

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> FittedDetector:
        """Return the score with its threshold; see :class:`deepsec_jax.protocols.Detector`."""
        if folder is not None:
            check_keepable(base, folder)
            if has_arrays(folder):
                return self.restore(load_network(folder), folder)
        clean = draw(fitting_and_validation(base, data)[1], self.images, key)
        fitted = FittedDetector(self._score(base.trained)).at_fpr(clean.images, self.fpr)
        if folder is not None:
            figures = {"threshold": float(fitted.threshold), "clean_images": len(clean)}
            keep_network(base, data, folder, answers=Guarded(base.trained, fitted), figures=figures)
            keep_arrays(folder, threshold=fitted.threshold, spread=fitted.spread)
        return fitted

    def restore(self, saved: Saved, folder: str | os.PathLike[str]) -> FittedDetector:
        """Return the detector of the network that a folder holds, with the threshold that lies beside it.

        Raises:
            DefenseError: the threshold is missing or damaged.
        """
        kept = kept_arrays(folder, "threshold", "spread")
        return FittedDetector(self._score(saved.model), float(kept["threshold"]), float(kept["spread"]))

    def surrogate(self, detector: FittedDetector) -> FittedDetector:
        """Return a detector that flags the same images, by a score that does not saturate: log-odds.

        Its score grows with the distance, so threshold and median go the same way.
        """
        of: Any = detector.scorer
        threshold, median = float(detector.threshold), float(detector.threshold - detector.spread)
        above = odds_of(threshold)
        return FittedDetector(LogOdds(of.model, of.squeezers), above, max(above - odds_of(median), 1.0))

    def _score(self, model: Classifier) -> "LargestL1":
        squeezers: list[Any] = []
        if self.bits:
            squeezers.append(Rounded(self.bits))
        if self.median:
            squeezers.append(Median())
        if self.search:
            squeezers.append(Means(self.strength / 255.0, self.search, self.patch))
        return LargestL1(model, tuple(squeezers))


class Rounded(Struct):
    """Images at 2^bits levels; no gradient but 0."""

    bits: int = static(1)

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        return to_levels(x, self.bits)


class SmoothlyRounded(Struct):
    """The same going forward; going back, a staircase of sigmoids: a pixel far from an edge hardly moves."""

    bits: int = static(1)

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        place = lax.stop_gradient(x) * (2**self.bits - 1)
        rise = jax.nn.sigmoid((place - jnp.floor(place) - 0.5) / WIDTH)
        slope = rise * (1.0 - rise) / WIDTH
        return lax.stop_gradient(to_levels(x, self.bits)) + slope * (x - lax.stop_gradient(x))


class Median(Struct):
    """Images behind the 2 x 2 median."""

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        return median_2x2(x)


class Means(Struct):
    """Images behind non-local means; fields as there."""

    strength: Scalar
    search: int = static(13)
    patch: int = static(3)

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        return non_local_means(x, self.strength, search=self.search, patch=self.patch)


Squeezers = tuple[Callable[[Images], Images], ...]


class LargestL1(Struct):
    """The largest L1 distance between the outputs on an image and on its squeezed forms.

    Attributes:
        model: images -> logits [B, K].
        squeezers: images -> images, pytrees.
    """

    model: Classifier
    squeezers: Squeezers

    def __call__(self, x: Images) -> jax.Array:
        """Return the scores [B], from 0 to 2."""
        plain, squeezed = _log_probabilities(self.model, self.squeezers, x)
        return jnp.max(jnp.sum(jnp.abs(jnp.exp(squeezed) - jnp.exp(plain)[None]), axis=-1), axis=0)


class LogOdds(Struct):
    """The same distance as log(d / (2 - d)), with a gradient that leads a joint attack somewhere.

    The gradient is that of the squeezed output alone, as if the model were certain of the image's class a:
    the log-odds are then log((1 - q_a) / q_a), the logit gap, which neither saturates nor vanishes.  So
    squeezed images come to agree with the image, not it with them, which would take a wrong answer back.
    Rounding has the gradient of a smooth staircase.  Fields as :class:`LargestL1`.
    """

    model: Classifier
    squeezers: Squeezers

    def __call__(self, x: Images) -> jax.Array:
        """Return the scores [B]."""
        smooth = tuple(SmoothlyRounded(s.bits) if isinstance(s, Rounded) else s for s in self.squeezers)
        plain, squeezed = _log_probabilities(self.model, smooth, x)
        odds = lax.stop_gradient(jax.vmap(log_odds, in_axes=(None, 0))(plain, squeezed))
        gaps = jax.vmap(logit_gap, in_axes=(0, None))(squeezed, jnp.argmax(plain, axis=-1))
        worst = jnp.argmax(odds, axis=0)[None]
        gap = jnp.take_along_axis(gaps, worst, axis=0)[0]
        return jnp.take_along_axis(odds, worst, axis=0)[0] + (gap - lax.stop_gradient(gap))


def _log_probabilities(model: Classifier, squeezers: Squeezers, x: Images) -> tuple[Logits, Logits]:
    """Return log-softmax [B, K] of the images and [S, B, K] of the squeezed ones, from one call."""
    images = jnp.stack([x, *(squeeze(x) for squeeze in squeezers)])
    logits = model(images.reshape(-1, *x.shape[1:])).astype(jnp.float32)
    outputs = jax.nn.log_softmax(logits, axis=-1).reshape(len(images), x.shape[0], -1)
    return outputs[0], outputs[1:]


def log_odds(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Return log(t / (1 - t)) of half the L1 distance t of two distributions, safe at both ends.

        t = sum of p - q where p > q = sum of q - p where q > p,     1 - t = sum of min(p, q)

    Both sums are taken from logarithms, the first over the side that lacks p's greatest entry: near 1 it
    has no digits left for a difference.

    Args:
        log_p: log-probabilities [B, K], float32.
        log_q: the other's.

    Returns:
        float32 [B], at least :data:`IDENTICAL`.
    """
    top = jnp.argmax(log_p, axis=-1, keepdims=True)
    gap_at_top = jnp.take_along_axis(log_p - log_q, top, axis=-1)
    more, less = jnp.where(gap_at_top > 0, log_q, log_p), jnp.where(gap_at_top > 0, log_p, log_q)
    counts = more > less
    gap = jnp.where(counts, more - less, 1.0)
    parts = jnp.where(counts, more + jnp.log(-jnp.expm1(-gap)), IDENTICAL)
    return jnp.maximum(
        jax.nn.logsumexp(parts, axis=-1) - jax.nn.logsumexp(jnp.minimum(log_p, log_q), axis=-1), IDENTICAL
    )


def odds_of(distance: float) -> float:
    """Return log(d / (2 - d)) of an L1 distance; held off both ends by what float32 tells from them."""
    half = min(max(distance / 2.0, 2.0**-25), 1.0 - 2.0**-25)
    return math.log(half / (1.0 - half))

"""FS: feature squeezing, a detector that compares outputs on an image and on simplified versions."""

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
from deepsec_jax.defenses.base import Base, DefenseError, check_confident, check_keepable, keep_network
from deepsec_jax.defenses.detector import FPR, FittedDetector, draw, fitting_and_validation
from deepsec_jax.defenses.detector_files import has_arrays, keep_arrays, kept_arrays
from deepsec_jax.field_checks import count, integer, share
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.protocols import Classifier, Images, Key, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.training import Saved, load_network
from deepsec_jax.transforms import median_2x2, non_local_means, to_levels

IDENTICAL = -1e4
"""The log-odds of equal outputs: below all values from logits of usual size."""


WIDTH = 0.1
"""Width of the steps in rounding's gradient, in units of the distance between levels."""


class FS(Struct):
    """Flag an image if the model's output changes when the image is squeezed; nothing is trained.

        score = max over squeezers s of |softmax z(x) - softmax z(s(x))|_1,     from 0 to 2

    The distance saturates at 2.  Its gradient is 0 in float32 on confident models, and rounding has no
    gradient. The surrogate flags the same images by the distance's log-odds, see :class:`LogOdds`.

    Attributes:
        bits: of the rounded image, static; 0 leaves this squeezer out.
        median: whether to use the 2 x 2 median, static.
        search: side of the search window of non-local means, static; 0 leaves this squeezer out.
        patch: side of its patches, static.
        strength: of non-local means, in grey levels of 0 .. 255.
        fpr: false positive rate of the threshold.
        images: maximum number of held-out clean images that set it, static.

    References:
        Xu, Evans, Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS
        2018, arXiv:1704.01155.
    """

    bits: int = static(1, check=integer(0, 16))
    median: bool = static(True)
    search: int = static(0, check=integer(0))
    patch: int = static(3, check=count)
    strength: Scalar = 2.0
    fpr: float = field(FPR, check=share)
    images: int = static(5000, check=count)

    keeps_network: ClassVar[bool] = True
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

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> FittedDetector:
        """Return the score with its threshold; see :class:`deepsec_jax.protocols.Detector`.

        Raises:
            DefenseError: a base that returns votes, or a folder of another model.
        """
        check_confident(self, base)
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
        """Return the detector of the network of a folder, with its threshold.

        Raises:
            DefenseError: the threshold is missing or damaged.
        """
        kept = kept_arrays(folder, "threshold", "spread")
        return FittedDetector(self._score(saved.model), float(kept["threshold"]), float(kept["spread"]))

    def surrogate(self, detector: FittedDetector) -> FittedDetector:
        """Return a detector that flags the same images by log-odds, which do not saturate.

        Log-odds are an increasing function of the distance, applied also to threshold and median.
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
    """Images rounded to 2^bits levels; the gradient is 0."""

    bits: int = static(1)

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        return to_levels(x, self.bits)


class SmoothlyRounded(Struct):
    """The same in the forward pass; the backward pass uses a smooth staircase of sigmoids."""

    bits: int = static(1)

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        place = lax.stop_gradient(x) * (2**self.bits - 1)
        rise = jax.nn.sigmoid((place - jnp.floor(place) - 0.5) / WIDTH)
        slope = rise * (1.0 - rise) / WIDTH
        return lax.stop_gradient(to_levels(x, self.bits)) + slope * (x - lax.stop_gradient(x))


class Median(Struct):
    """The 2 x 2 median."""

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        squeezed: Images = median_2x2(x)
        return squeezed


class Means(Struct):
    """Non-local means; fields as for :func:`~deepsec_jax.transforms.non_local_means`."""

    strength: Scalar
    search: int = static(13)
    patch: int = static(3)

    def __call__(self, x: Images) -> Images:
        """Return images of the same shape."""
        squeezed: Images = non_local_means(x, self.strength, search=self.search, patch=self.patch)
        return squeezed


Squeezers = tuple[Callable[[Images], Images], ...]


class LargestL1(Struct):
    """The largest L1 distance between the outputs on an image and on its squeezed versions.

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
    """The same distance as log(d / (2 - d)), with a useful gradient for a joint attack.

    The gradient is that of the squeezed output only, as if the model were certain of the image's class a.
    The log-odds are then log((1 - q_a) / q_a), the logit gap, which does not saturate.  So the outputs on
    squeezed images change towards the image's class.  The opposite direction would undo the
    misclassification.

    Rounding has the gradient of a smooth staircase.  Fields as in :class:`LargestL1`.
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
    """Return log(t / (1 - t)) of half the L1 distance t of two distributions, finite at both ends.

        t = sum of p - q where p > q = sum of q - p where q > p,     1 - t = sum of min(p, q)

    Both sums are computed from logarithms, the first over the side without p's largest entry: near 1 a
    difference would lose all digits.

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
    """Return log(d / (2 - d)) of an L1 distance, clipped to the closest float32 values to 0 and 2."""
    half = min(max(distance / 2.0, 2.0**-25), 1.0 - 2.0**-25)
    return math.log(half / (1.0 - half))

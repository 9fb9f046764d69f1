"""A classifier and a detector as one model with an additional class, "rejected"."""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.model_traits import rejects
from deepsec_jax.protocols import Classifier, Images, Logits, Scalar
from deepsec_jax.pytree import Struct

LARGEST = 1e30
"""z_K for an infinite score."""


class Detecting(Protocol):
    """The interface of a fitted detector."""

    @property
    def threshold(self) -> Scalar:
        """Scores above it are flagged."""
        ...

    @property
    def spread(self) -> Scalar:
        """The unit of a score's distance from the threshold, above 0."""
        ...

    def score(self, x: Images, /) -> jax.Array:
        """Return the scores [B], high = suspicious."""
        ...


class Guarded(Struct):
    """A model that rejects the images that a detector flags: logits [B, K+1], the last is "rejected".

        z_K = max_j z_j + weight (score - threshold) / spread

    so the argmax is K exactly where the detector flags.  Attacks take the detector's gradient from z_K, which
    does not saturate at any distance from the threshold.  An untargeted attack succeeds where the argmax is
    neither the label nor K.

    Attributes:
        model: images -> logits [B, K].
        detector: a fitted detector, with its threshold.
        weight: number of logits per spread (threshold less the median clean score); it changes the gradient,
            never the answer.

    References:
        Carlini, Wagner, "Adversarial Examples Are Not Easily Detected", AISec 2017, arXiv:1705.07263,
        which combines both in this way.
    """

    model: Classifier
    detector: Any
    weight: Scalar = 1.0

    rejects: ClassVar[bool] = True

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K+1], float32; z_K is never equal to the largest of the others."""
        if rejects(self.model):
            raise ValueError("Guarded.model rejects already: give one detector both scores")
        logits = self.model(x).astype(jnp.float32)
        detector: Detecting = self.detector
        score = detector.score(x)
        top = jnp.max(logits, axis=-1)
        pull = top + self.weight * (score - detector.threshold) / detector.spread
        # Rounding must not decide: a score just above the threshold always wins, a score equal to it never.
        hair = 1e-6 * jnp.maximum(jnp.abs(top), 1.0)
        flagged = ~(score <= detector.threshold)
        # A score may be infinite, a logit must be finite.
        decided = jnp.where(
            flagged, jnp.fmax(jnp.minimum(pull, LARGEST), top + hair), jnp.fmin(pull, top - hair)
        )
        # The value is that of the decision, the gradient that of ``pull``, also right at the threshold.
        slope = jnp.where(jnp.isfinite(pull), pull - lax.stop_gradient(pull), 0.0)
        rejected = lax.stop_gradient(decided) + slope
        return jnp.concatenate([logits, rejected[:, None]], axis=-1)

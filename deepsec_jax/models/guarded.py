"""A classifier with a detector before it, as one model: a class more, which says "rejected"."""

from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.protocols import Classifier, Images, Logits, Scalar
from deepsec_jax.pytree import Struct, rejects

LARGEST = 1e30
"""z_K where the score is infinite."""


class Detecting(Protocol):
    """What a guard needs of a fitted detector."""

    @property
    def threshold(self) -> Scalar:
        """Scores above it are flagged."""
        ...

    @property
    def spread(self) -> Scalar:
        """The unit in which a score's distance from the threshold counts, above 0."""
        ...

    def score(self, x: Images, /) -> jax.Array:
        """Return the scores [B], high = suspicious."""
        ...


class Guarded(Struct):
    """A model that refuses to answer where a detector flags: logits [B, K+1], the last is "rejected".

        z_K = max_j z_j + weight (score - threshold) / spread

    so that the argmax is K exactly where the detector flags, and falls to a class exactly where it does not.
    Attacks see the detector through z_K: it neither saturates nor loses its gradient, near the threshold
    or far from it.  An untargeted attack succeeds where the argmax is neither the label nor K.

    Attributes:
        model: images -> logits [B, K].
        detector: a fitted detector, with its threshold.
        weight: logits that one spread (threshold less the median clean score) counts for; it changes how
            hard an attack pulls on the detector, and never the answer.

    References:
        Carlini, Wagner, "Adversarial Examples Are Not Easily Detected", AISec 2017, arXiv:1705.07263,
        which joins both to one model in this way.
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
        # Rounding must not decide: a score a hair above the threshold still wins, one at it never does.
        hair = 1e-6 * jnp.maximum(jnp.abs(top), 1.0)
        flagged = ~(score <= detector.threshold)
        # A score may be infinite, a logit of an answer may not.
        decided = jnp.where(
            flagged, jnp.fmax(jnp.minimum(pull, LARGEST), top + hair), jnp.fmin(pull, top - hair)
        )
        # The value is the decision's, the gradient the pull's, also within a hair of the threshold.
        slope = jnp.where(jnp.isfinite(pull), pull - lax.stop_gradient(pull), 0.0)
        rejected = lax.stop_gradient(decided) + slope
        return jnp.concatenate([logits, rejected[:, None]], axis=-1)

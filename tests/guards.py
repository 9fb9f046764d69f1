"""Planted detectors and guards: scores by hand, a guard that saturates, one that does not say it rejects."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from conftest import make_images, make_linear

from deepsec_jax.defenses import FittedDetector
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.pytree import Struct

SHAPE = (4, 4, 1)


class Brightness(Struct):
    """The mean of each image."""

    def __call__(self, x):
        return jnp.mean(x, axis=(1, 2, 3))


class Far(Struct):
    """The L2 distance of each image to a stored one."""

    reference: Any  # [H, W, C]

    def __call__(self, x):
        return jnp.sqrt(jnp.sum((x.astype(jnp.float32) - self.reference[None]) ** 2, axis=(1, 2, 3)))


class Given(Struct):
    """Scores that stand from the start, whatever the images are."""

    scores: Any  # [B]

    def __call__(self, x):
        return self.scores + 0.0 * jnp.mean(x, axis=(1, 2, 3))


class Unsure(Struct):
    """Minus the distance of the two largest logits: what lies near a boundary is suspicious."""

    model: Any

    def __call__(self, x):
        first, second = jnp.moveaxis(jax.lax.top_k(self.model(x), 2)[0], -1, 0)
        return second - first


class Blind(Guarded):
    """A guarded model that does not say that it rejects, so that attacks take a rejection for a class."""

    rejects: ClassVar[bool] = False


class Saturated(Guarded):
    """A guarded model whose last logit is a saturating function of the score."""

    def __call__(self, x):
        logits = self.model(x)
        far = (self.detector.score(x) - self.detector.threshold) / self.detector.spread
        rejected = jnp.max(logits, axis=-1) + 30.0 * jnp.tanh(1e4 * far)
        return jnp.concatenate([logits, rejected[:, None]], axis=-1)


def detector(scorer=None, *, fpr: float = 0.05) -> FittedDetector:
    """A detector with its threshold on random images; by default the distance to grey."""
    scorer = Far(jnp.full(SHAPE, 0.5)) if scorer is None else scorer
    return FittedDetector(scorer).at_fpr(make_images(rows=400, seed=9), fpr)


def guarded(scorer=None, *, fpr: float = 0.05, kind=Guarded, **fields):
    """The linear model behind a planted detector."""
    return kind(make_linear(), detector(scorer, fpr=fpr), **fields)

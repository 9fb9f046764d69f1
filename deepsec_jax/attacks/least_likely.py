"""The least likely class of a model: the target of LLC, R+LLC and ILLC."""

from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax.answers import answered, least_likely
from deepsec_jax.attacks.rejection import class_logits
from deepsec_jax.jit import jit_per_class
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.model_traits import classes_of, gives_confidences
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.randomness import is_randomised, reseed, root_key

DRAWS = 10
"""Number of draws for the mean probabilities of a randomised model."""


def least_likely_class(model: Classifier, x: Images) -> Labels:
    """Return the argmin of the logits on clean ``x``, int [B], without masked classes (-inf).

    For a randomised model the softmax, or without confidences the share of votes, is averaged over ten draws.
    The keys are fixed and the same for every row, so that an image's target depends only on the image.
    """
    if not is_randomised(model):
        return least_likely(class_logits(model, model(x)))

    confident = gives_confidences(model)

    def draw(so_far: tuple[jax.Array, jax.Array], key: Key) -> tuple[tuple[jax.Array, jax.Array], None]:
        total, possible = so_far
        keys = jnp.broadcast_to(key, x.shape[:1])
        logits = class_logits(model, reseed(model, keys)(x)).astype(jnp.float32)
        counts = answered(logits)[:, None] & jnp.isfinite(logits)
        total += jnp.where(counts, jax.nn.softmax(logits) if confident else logits, 0.0)
        return (total, possible | counts), None

    nothing = jnp.zeros((x.shape[0], classes_of(model, x)), jnp.float32)
    start = varying_alike((nothing, jnp.zeros(nothing.shape, bool)), x)
    (total, possible), _ = jax.lax.scan(draw, start, jax.random.split(root_key(0), DRAWS))
    return least_likely(jnp.where(possible, total, -jnp.inf))


_compiled = jit_per_class(least_likely_class)


def least_likely_targets(
    self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Labels:
    """Return the least likely class of each clean image, int [B]."""
    del self, labels, key
    return _compiled(model, jnp.asarray(x))

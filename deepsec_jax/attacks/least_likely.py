"""The class a model finds least likely: the target of LLC, R+LLC and ILLC."""

from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax.answers import answered, least_likely
from deepsec_jax.attacks.rejection import class_logits
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import classes_of, gives_confidences, jit_per_class
from deepsec_jax.randomness import is_randomised, reseed, root_key

DRAWS = 10
"""Draws over which a randomised model's probabilities are averaged."""


def least_likely_class(model: Classifier, x: Images) -> Labels:
    """Return argmin of the logits on clean ``x``, int [B]; a class that is masked (-inf) is none.

    A randomised model is averaged over ten draws under fixed keys, the same for every row, so that the target
    of an image depends on nothing but the image: its softmax, or, without confidences, its shares of votes.
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
    start = (nothing, jnp.zeros(nothing.shape, bool))
    (total, possible), _ = jax.lax.scan(draw, start, jax.random.split(root_key(0), DRAWS))
    return least_likely(jnp.where(possible, total, -jnp.inf))


_compiled = jit_per_class(least_likely_class)


def least_likely_targets(
    self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Labels:
    """Return the least likely class of each clean image, int [B]."""
    del self, labels, key
    return _compiled(model, jnp.asarray(x))

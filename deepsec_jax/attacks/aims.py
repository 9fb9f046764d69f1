"""The wrong classes that an untargeted attack targets one after the other."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.balls import DUAL, free_part, size_of
from deepsec_jax.attacks.geometry import at_least_float32
from deepsec_jax.attacks.gradient import forward, pullbacks
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Classifier, Images, Labels


def likeliest_wrong(model: Classifier, x: Images, labels: Labels, count: int) -> tuple[jax.Array, jax.Array]:
    """Return the wrong classes with the largest logits, int [B, k], and whether misclassified, bool [B].

    Args:
        model: a classifier; a randomised one must be reseeded before.
        x: images [B, H, W, C].
        labels: true classes [B].
        count: k, static; at most K - 1, the number of wrong classes.
    """
    logits = forward(model, x).astype(jnp.float32)
    fooled = succeeded(open_logits(model, logits, labels, targeted=False), labels, targeted=False)
    classes = class_logits(model, logits)
    wrong = jnp.where(jax.nn.one_hot(labels, classes.shape[-1], dtype=bool), -jnp.inf, classes)
    return lax.top_k(wrong, min(count, classes.shape[-1] - 1))[1], fooled


POOL = 20
"""Number of wrong classes with the largest logits that are searched for the nearest ones."""


def nearest_wrong(model: Classifier, x: Images, labels: Labels, count: int, norm: str) -> jax.Array:
    """Return the wrong classes with the nearest linearised boundary, int [B, k].

        distance to j = (z_y - z_j) / ||grad z_j - grad z_y||_dual

    Entries of a gradient that would leave the box count as 0.

    Args:
        model: a classifier; a randomised one must be reseeded before.
        x: images [B, H, W, C].
        labels: true classes [B].
        count: k, static; at most K - 1, the number of wrong classes.
        norm: of the distance, of ``balls.BALLS``, static.

    Costs a forward and min(K, :data:`POOL` + 1) gradients.

    References:
        Melamed, Yehudai, Vardi, "MALT Powers Up Adversarial Attacks", NeurIPS 2024, arXiv:2407.02240.
    """
    point = at_least_float32(x)
    classes = classes_of(model, x)
    pool = min(classes - 1, POOL)
    wrong = likeliest_wrong(model, x, labels, pool)[0]
    asked = jnp.concatenate([as_labels(labels)[:, None], wrong], axis=1)
    cotangents = jax.nn.one_hot(asked.T, classes, dtype=jnp.float32)  # [1 + pool, B, K]

    def logits_of(at: Images) -> jax.Array:
        return open_logits(model, model(at.astype(x.dtype)), labels, targeted=False)

    logits, slopes = pullbacks(logits_of, point, cotangents)
    values = jnp.take_along_axis(logits, asked, axis=1)
    gaps = values[:, :1] - values[:, 1:]

    def steepness(slope: Images) -> jax.Array:
        return size_of(free_part(slope - slopes[0], point), DUAL[norm])

    steep = jax.vmap(steepness)(slopes[1:]).T
    distance = jnp.where(steep > 0, gaps / jnp.where(steep > 0, steep, 1.0), jnp.inf)
    order = lax.top_k(-jnp.where(jnp.isnan(distance), jnp.inf, distance), min(count, pool))[1]
    return jnp.take_along_axis(wrong, order, axis=1)

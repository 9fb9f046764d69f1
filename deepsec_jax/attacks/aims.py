"""The wrong classes that an untargeted attack targets one after the other."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.gradient import forward
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.rejection import class_logits, open_logits
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

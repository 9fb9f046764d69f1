"""Labels and predictions: whether logits are an answer, their class, and whether a goal is reached.

Attacks, judge, metrics, candidates, detectors and training share this definition.  A logit of -inf is valid:
a masked class, which is never predicted.  NaN and +inf are errors of the model: such a row is neither correct
nor fooled, and is counted separately.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.protocols import Labels, Logits

NO_CLASS = -1
"""The predicted class without an answer; no label is equal to it."""


def as_labels(labels: Any) -> Labels:
    """Return integer labels of any dtype as an int32 array.

    uint8 is too small for 1000 classes: in ``one_hot`` the class indices would wrap around, and two classes
    would match the label.  Every function that takes labels from a caller converts them here.  Other dtypes
    are returned unchanged, for the caller's check.
    """
    # A NumPy array is cast on the host: one transfer, no compilation.
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    return jnp.asarray(labels.astype(np.int32) if jnp.issubdtype(labels.dtype, jnp.integer) else labels)


def answered(logits: Logits) -> jax.Array:
    """Return bool [...]: the logits are an answer: no NaN, no +inf, and at least one unmasked class.

    Args:
        logits: [..., K].
    """
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        return jnp.ones(logits.shape[:-1], bool)
    return jnp.all(logits < jnp.inf, axis=-1) & jnp.any(logits > -jnp.inf, axis=-1)


def named(logits: Logits) -> Labels:
    """Return the class of the largest logit, int32 [...], in a tie the lower; NO_CLASS without an answer.

    Args:
        logits: [..., K].
    """
    return jnp.where(answered(logits), jnp.argmax(logits, axis=-1).astype(jnp.int32), NO_CLASS)


def succeeded(logits: Logits, labels: Labels, *, targeted: bool) -> jax.Array:
    """Return bool [B]: the logits are an answer, and it is the target, or, if untargeted, not the label.

    Args:
        logits: [B, K].
        labels: targets, or true classes, [B].
        targeted: whether ``labels`` are targets.
    """
    hit = jnp.argmax(logits, axis=-1) == labels
    return answered(logits) & (hit if targeted else ~hit)


def least_likely(logits: Logits) -> Labels:
    """Return the class of the smallest logit, int [...], without masked classes.

    Args:
        logits: [..., K].
    """
    possible = jnp.isfinite(logits)
    return jnp.argmin(jnp.where(possible, logits, jnp.inf), axis=-1)

"""Labels, and what logits say: whether they are an answer, which class, and whether a goal is reached.

The one definition that attacks, judge, metrics, candidates, detectors and training share.  A logit of -inf is
legitimate: a masked class, which the model never names.  NaN and +inf are faults of the model: such a row is
neither right nor fooled, and whoever counts, counts it apart.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.protocols import Labels, Logits

NO_CLASS = -1
"""The class that is named where there is no answer; no label is equal to it."""


def as_labels(labels: Any) -> Labels:
    """Return integer labels as an int32 array, whatever integers they came as.

    A uint8 cannot count to 1000: the columns that ``one_hot`` compares it with would wrap around, and two
    classes would be the label.  Every function that takes labels from a caller passes them through here.
    What is not integers comes back as it is, for the caller's check to refuse.
    """
    # A NumPy array is cast where it lies: one transfer, no compile.
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    return jnp.asarray(labels.astype(np.int32) if jnp.issubdtype(labels.dtype, jnp.integer) else labels)


def answered(logits: Logits) -> jax.Array:
    """Return bool [...]: the logits are an answer: no NaN, no +inf, and one class at least is not masked.

    Args:
        logits: [..., K].
    """
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        return jnp.ones(logits.shape[:-1], bool)
    return jnp.all(logits < jnp.inf, axis=-1) & jnp.any(logits > -jnp.inf, axis=-1)


def named(logits: Logits) -> Labels:
    """Return the class of the largest logit, int32 [...], the lower class of equals; NO_CLASS without answer.

    Args:
        logits: [..., K].
    """
    return jnp.where(answered(logits), jnp.argmax(logits, axis=-1).astype(jnp.int32), NO_CLASS)


def succeeded(logits: Logits, labels: Labels, *, targeted: bool) -> jax.Array:
    """Return bool [B]: the logits are an answer, and it is the target, or, untargeted, not the label.

    Args:
        logits: [B, K].
        labels: targets, or the classes to flee from, [B].
        targeted: which of the two.
    """
    hit = jnp.argmax(logits, axis=-1) == labels
    return answered(logits) & (hit if targeted else ~hit)


def least_likely(logits: Logits) -> Labels:
    """Return the class of the smallest logit, int [...]; a masked class is none, for nothing leads there.

    Args:
        logits: [..., K].
    """
    possible = jnp.isfinite(logits)
    return jnp.argmin(jnp.where(possible, logits, jnp.inf), axis=-1)

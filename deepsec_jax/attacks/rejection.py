"""Logits of a model that can reject, for attacks: the only place that handles the class "rejected"."""

from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax.answers import as_labels
from deepsec_jax.model_traits import rejects
from deepsec_jax.protocols import Labels, Logits


def open_logits(model: Any, logits: Logits, labels: Labels, *, targeted: bool) -> Logits:
    """Return the logits for losses and success.

    An untargeted attack on a model that rejects fails if the label or "rejected" (K) is predicted:

        z'_y = max(z_y, z_K),   z'_j = z_j for the other classes,   K is left out

    so every loss, margin and prediction of z' treats both alike.  For a targeted attack, and for other
    models, the logits are unchanged: a rejected image is not the target.

    Args:
        model: the model of the logits; only used to tell whether it rejects.
        logits: [B, K], or [B, K+1] of a model that rejects.
        labels: true classes, or targets if ``targeted``, [B].
        targeted: whether the labels are targets, static.

    Returns:
        Logits [B, K], or unchanged if targeted.
    """
    if targeted or not rejects(model):
        return logits
    classes = logits[:, :-1]
    is_label = jax.nn.one_hot(as_labels(labels), classes.shape[-1], dtype=bool)
    return jnp.where(is_label, jnp.maximum(classes, logits[:, -1:]), classes)


def class_logits(model: Any, logits: Logits) -> Logits:
    """Return the logits of the classes only [B, K], for choosing a target class."""
    return logits[:, :-1] if rejects(model) else logits

"""How an attack sees a model that can reject: the one place that knows of the class "rejected"."""

from typing import Any

import jax
import jax.numpy as jnp

from deepsec_jax.answers import as_labels
from deepsec_jax.protocols import Labels, Logits
from deepsec_jax.pytree import rejects


def open_logits(model: Any, logits: Logits, labels: Labels, *, targeted: bool) -> Logits:
    """Return the logits that losses and success are taken from.

    An untargeted attack on a model that rejects loses where the label wins, and where "rejected", K, does:

        z'_y = max(z_y, z_K),   z'_j = z_j for the other classes,   K is left out

    so every loss, margin and prediction of z' counts both alike.  A targeted attack, and any attack on
    another model, sees the logits as they are: what is rejected is not the target.

    Args:
        model: the model that gave the logits; only asked whether it rejects.
        logits: [B, K], or [B, K+1] of a model that rejects.
        labels: true classes, or targets if ``targeted``, of these rows [B].
        targeted: what the labels are, static.

    Returns:
        Logits [B, K], or, targeted, as they were.
    """
    if targeted or not rejects(model):
        return logits
    classes = logits[:, :-1]
    is_label = jax.nn.one_hot(as_labels(labels), classes.shape[-1], dtype=bool)
    return jnp.where(is_label, jnp.maximum(classes, logits[:, -1:]), classes)


def class_logits(model: Any, logits: Logits) -> Logits:
    """Return the logits of the classes alone [B, K]: what a class to flee or drive to is chosen from."""
    return logits[:, :-1] if rejects(model) else logits

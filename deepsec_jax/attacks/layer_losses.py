"""Losses of the model's activations and logits.

Such a loss has an attribute ``sees_activations = True`` and is called with two more arguments:

    loss(logits, labels, activations, clean) -> [B]

``activations`` are the model's at the point, ``clean`` those at the clean image, from the model's method
``activations(x) -> tuple of [B, d]``, one per layer.  All networks of ``deepsec_jax.models`` have it.  The
loss is differentiated through them.  It is a static field like any loss: a function, or a hashable frozen
dataclass. Constant arrays belong to the model, whose ``activations`` may also return them.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.losses import Loss, find_loss
from deepsec_jax.protocols import Classifier, Images, Labels, Logits
from deepsec_jax.pytree import Struct, static

Activations = tuple[jax.Array, ...]


class FeatureDistance(Struct):
    """The squared L2 distance of one layer's output to that of the clean image.

        loss = sum_k (a_k(x_adv) - a_k(x))^2

    An attack that maximises it changes the network's features, independent of classes.  The gradient is zero
    at the clean image, so the attack needs a random start: ``PGD(loss=FeatureDistance())``.

    Attributes:
        layer: index into ``model.activations(x)``, static; -1 is the logits, -2 the layer before them.

    References:
        Naseer et al., "Task-generalizable Adversarial Attack based on Perceptual Metric", 2018,
        arXiv:1811.09020.
    """

    layer: int = static(-2)

    sees_activations: ClassVar[bool] = True

    def __call__(
        self, logits: Logits, labels: Labels, activations: Activations, clean: Activations
    ) -> jax.Array:
        """Return the distances [B]."""
        del logits, labels
        return jnp.sum((activations[self.layer] - clean[self.layer]) ** 2, axis=-1)


def sees_activations(loss: Loss | str) -> bool:
    """Tell whether a loss takes activations."""
    return bool(getattr(find_loss(loss), "sees_activations", False))


def activations_of(model: Classifier, x: Images) -> Activations:
    """Return the activations of a model, one array [B, d] per layer.

    Raises:
        TypeError: the model has no ``activations``; the error names the remedy.
    """
    method = getattr(model, "activations", None)
    if not callable(method):
        raise TypeError(
            f"this loss sees activations, and {type(model).__name__} has none: give the model a method "
            "activations(x) -> tuple of [B, d], one per layer"
        )
    return tuple(method(x))


def clean_activations(loss: Loss | str, model: Classifier, x: Images) -> Activations | None:
    """Return the clean activations for a loss that uses them; None for any other loss."""
    return activations_of(model, x) if sees_activations(loss) else None


def loss_at(
    loss: Loss | str, model: Classifier, x: Images, logits: Logits, labels: Labels, clean: Activations | None
) -> jax.Array:
    """Return the values [B] of any loss.

    Args:
        loss: the loss, or its name.
        model: of the logits.
        x: images [B, H, W, C] in the model's dtype.
        logits: of the attack [B, K].
        labels: [B].
        clean: see :func:`clean_activations`.
    """
    found: Any = find_loss(loss)
    if clean is None:
        values: jax.Array = found(logits, labels)
        return values
    seen: jax.Array = found(logits, labels, activations_of(model, x), clean)
    return seen


def of_logits(loss: Loss | str) -> Loss:
    """Return a loss of logits only, also by its name.

    Raises:
        ValueError: it uses activations; the error lists the attacks that accept it.
    """
    if sees_activations(loss):
        raise ValueError(
            f"{loss!r} sees activations, and this attack's loss sees logits only: use PGD or APGD"
        )
    return find_loss(loss)

"""The cost of an attack in model calls per image, as declared by the attack.

An attack has a method ``cost(classes, entries) -> Cost``.  Tables use it for attacks that do not count their
calls, and time estimates use it for all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from deepsec_jax.attacks.layer_losses import sees_activations
from deepsec_jax.attacks.losses import Loss
from deepsec_jax.protocols import Images


@dataclass(frozen=True)
class Cost:
    """Model calls per image.

    Attributes:
        forwards: forward passes, without those in gradients.
        gradients: one backward pass each; a Jacobian counts one per class.
        exact: whether every image takes this number; otherwise it is an upper bound.
    """

    forwards: float
    gradients: float
    exact: bool = True

    def __mul__(self, runs: float) -> "Cost":
        """Return the cost of several runs."""
        return Cost(self.forwards * runs, self.gradients * runs, self.exact)

    def with_forwards(self, more: float) -> "Cost":
        """Return the cost with further forward passes."""
        return Cost(self.forwards + more, self.gradients, self.exact)

    def at_most(self) -> "Cost":
        """Return the same numbers as an upper bound."""
        return Cost(self.forwards, self.gradients, exact=False)


class Counted(NamedTuple):
    """Images with their cost: the result of an attack with different work per row."""

    x: Images  # [B, H, W, C]
    forwards: jax.Array  # float32 [B]: forward passes without those in gradients
    gradients: jax.Array  # float32 [B]: one backward pass each; a Jacobian counts one per class


def cost(attack: Any, *, classes: int, entries: int) -> Cost | None:
    """Return the declared cost of an attack; None if there is none.

    Args:
        attack: the attack.
        classes: number of the model's classes.
        entries: entries of an image, H x W x C.
    """
    stated = getattr(attack, "cost", None)
    found: Cost | None = None if stated is None else stated(classes, entries)
    return found


def of_all(attacks: Iterable[Any], classes: int, entries: int) -> Cost | None:
    """Return the cost of several attacks, each on every image; None if one has none."""
    costs = [cost(attack, classes=classes, entries=entries) for attack in attacks]
    known = [each for each in costs if each is not None]
    if len(known) < len(costs):
        return None
    return Cost(
        sum(each.forwards for each in known),
        sum(each.gradients for each in known),
        all(each.exact for each in known),
    )


def of_steps(steps: int, loss: Loss | str) -> Cost:
    """Return the cost of an ascent: a gradient per step, and a forward for the last iterate after several.

    A loss on activations takes another forward, for the clean image.
    """
    return Cost(float(steps > 1) + sees_activations(loss), float(steps))


def uses_gradients(attack: Any) -> bool:
    """Tell whether an attack, or an inner attack, uses gradients of the model.

    An attack without gradients has a field or property ``uses_gradients`` that is False.
    """
    stated = getattr(attack, "uses_gradients", None)
    if stated is not None:
        return bool(stated)
    held = getattr(attack, "attacks", None) or [part for part in [getattr(attack, "attack", None)] if part]
    return any(map(uses_gradients, held)) if held else True

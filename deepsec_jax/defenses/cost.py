"""What one image costs in a defense's training, in input gradients of the network; for time estimates."""

from typing import Any

from deepsec_jax.defenses.eat import EAT
from deepsec_jax.defenses.igr import IGR
from deepsec_jax.defenses.nat import NAT
from deepsec_jax.defenses.pat import PAT
from deepsec_jax.defenses.te import TE

LEARNING = 2.0
"""A gradient by the parameters costs about two by the image."""


def gradients(defense: Any) -> float:
    """Return the input gradients per image and epoch that a training costs, about."""
    if isinstance(defense, PAT):
        if defense.replays:
            return (LEARNING + 0.5) * defense.replays
        return defense.steps + LEARNING * (1.0 if defense.natural == 0 else 2.0)
    if isinstance(defense, TE) and defense.adversarial:
        return defense.steps + 2 * LEARNING
    if isinstance(defense, NAT | EAT):
        return 1.0 + 2 * LEARNING
    if isinstance(defense, IGR):
        return 2 * LEARNING
    return LEARNING

"""The attacks of a verdict, in order, and what they differentiate."""

from typing import Any

from deepsec_jax.attacks import APGD, AutoAttack, Square, Transfer
from deepsec_jax.attacks.cost import uses_gradients
from deepsec_jax.evaluation.cascade import FromBest
from deepsec_jax.models import EOT
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import is_randomised, reseed
from deepsec_jax.studies.run import Run

SEARCH, MORE = "search", "more"
"""Attacks after those of AutoAttack: one without gradients, and one with twice the steps.  What they fool
first says that the others were too weak."""

MORE_STEPS = 200

DRAWS = 8
"""Number of draws that are averaged in each gradient of a randomised model."""


def surrogate_of(run: Run) -> Classifier | None:
    """Return the model to differentiate: the given surrogate, or the mean over draws of a randomised model.

    None is the model itself.
    """
    if run.surrogate is None and is_randomised(run.model):
        return EOT(run.model, DRAWS)
    return run.surrogate


def members(run: Run, norm: str, eps: float, version: str, keys: Any) -> list[tuple[str, Any]]:
    """Return AutoAttack's attacks with their roles, through the surrogate where they follow gradients.

    Two attacks come last, which must not find what the others miss: Square, and APGD with twice the steps.
    """
    found: list[tuple[str, Any]] = []
    for attack in AutoAttack(eps=eps, norm=norm, version=version).members(run.classes):
        if isinstance(attack, Square):
            found += [("", attack.start)] if attack.start is not None else []
            found.append((SEARCH, FromBest(attack) if attack.start is not None else attack))
        else:
            found.append(("", attack))
    if not any(role == SEARCH for role, _ in found):
        found.append((SEARCH, Square(eps=eps, norm=norm, queries=1000)))
    found.append((MORE, APGD(eps=eps, norm=norm, steps=MORE_STEPS)))
    surrogate = surrogate_of(run)
    if surrogate is None:
        return found
    keyed = reseed(surrogate, keys)
    return [
        (
            role,
            attack if isinstance(attack, FromBest) or not uses_gradients(attack) else Transfer(attack, keyed),
        )
        for role, attack in found
    ]


def told(attack: Any) -> str:
    """Return an attack as text, without the surrogate's weights."""
    if isinstance(attack, FromBest):
        return repr(attack.attack.replace(start=None))
    return f"{attack.attack!r} through the surrogate" if isinstance(attack, Transfer) else repr(attack)


def short_name(text: str) -> str:
    """Return the short name of an attack that is written as text: ``FAB`` of ``Within(attack=FAB(...))``."""
    while text.startswith(("Within(attack=", "Restarts(attack=")):
        text = text.partition("attack=")[2]
    return text.partition("(")[0] + (" (targeted)" if "aims=" in text else "")

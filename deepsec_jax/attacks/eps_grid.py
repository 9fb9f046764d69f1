"""One attack at several budgets, for a curve of robust accuracy over eps."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from deepsec_jax.attacks.per_image import SCALED
from deepsec_jax.protocols import Attack, Scalar


def with_eps(attack: Attack, eps: Scalar) -> Attack:
    """Return the attack, and all attacks in it, with another eps; ``step_size`` and ``alpha`` scale with it.

        with_eps(Restarts(PGD(eps=0.3, step_size=0.05), n=3), 0.15)

    Args:
        attack: an attack with a field ``eps``, or with such inner attacks.
        eps: the new radius, a number or one per image [B].

    Raises:
        ValueError: no attack in it has an eps.
    """
    changed: Attack | None = _changed(attack, eps)
    if changed is None:
        raise ValueError(f"{attack!r} has no eps: give an attack with a budget, such as PGD")
    return changed


def over_eps(attack: Attack, values: Sequence[float]) -> dict[str, Attack]:
    """Return name -> attack for each eps, for ``run_all`` and ``evaluation.evaluate``.

        evaluation.evaluate(model, attacks.over_eps(PGD(), [2 / 255, 4 / 255, 8 / 255]), "cifar10", ...)

    They share one compiled program.

    Args:
        attack: see :func:`with_eps`.
        values: the radii; names are ``eps=0.00784``.

    Raises:
        ValueError: no eps in the attack, or two values with one name.
    """
    found = {f"eps={eps:.4g}": with_eps(attack, float(eps)) for eps in values}
    if len(found) < len(values):
        raise ValueError(f"two of the values {list(values)} are the same to four digits")
    return found


def _changed(attack: Any, eps: Scalar) -> Any:
    """Return the attack with another eps, or None if it has none."""
    changes: dict[str, Any] = {}
    for each in fields(attack):
        value = getattr(attack, each.name)
        if each.name == "eps":
            changes["eps"] = eps
            changes |= {name: getattr(attack, name) / value * eps for name in SCALED if hasattr(attack, name)}
        elif hasattr(value, "targets"):
            changes[each.name] = _changed(value, eps)
        elif isinstance(value, tuple) and any(hasattr(part, "targets") for part in value):
            parts = [_changed(part, eps) for part in value]
            if any(part is not None for part in parts):
                changes[each.name] = tuple(
                    old if new is None else new for old, new in zip(value, parts, strict=True)
                )
    changes = {name: value for name, value in changes.items() if value is not None}
    return attack.replace(**changes) if changes else None

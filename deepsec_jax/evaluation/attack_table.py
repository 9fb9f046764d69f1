"""What an attack is, in plain values, and how many model calls it makes."""

from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np

from deepsec_jax.attacks import JSMA, UAP, DeepFool, Perturbation, Restarts
from deepsec_jax.attacks.layer_losses import sees_activations
from deepsec_jax.catalog import versions


def hyperparameters(attack: Any) -> dict[str, Any]:
    """Return field -> plain value of an attack: functions by name, nested attacks written out.

    ``Restarts`` shows the fields of what it repeats and ``restarts``, as a preset names them.
    """
    if isinstance(attack, Restarts):
        return {**hyperparameters(attack.attack), "restarts": attack.n}
    return {field.name: _plain(getattr(attack, field.name)) for field in fields(attack)}


def described(attack: Any) -> dict[str, Any]:
    """Return what a config says of an attack: ``class``, ``hyperparameters``, ``versions``."""
    return {
        "class": class_of(attack), "hyperparameters": hyperparameters(attack), "versions": versions(attack)
    }  # fmt: skip


def class_of(attack: Any) -> str:
    """Return the name of an attack's class; of ``Restarts``, that of what it repeats."""
    return type(attack.attack if isinstance(attack, Restarts) else attack).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if is_dataclass(value):
        inner = ", ".join(f"{name}={part}" for name, part in hyperparameters(value).items())
        return f"{type(value).__name__}({inner})"
    return getattr(value, "__name__", type(value).__name__)


def gradients(attack: Any) -> int | None:
    """Return the gradients per image of an attack whose work is the same for every image; else None."""
    if isinstance(attack, Restarts):
        each = gradients(attack.attack)
        return None if each is None else each * attack.n
    if isinstance(attack, Perturbation):
        return 0
    card = getattr(attack, "card", None)
    if card is None or card.kind != "budget":
        return None
    return int(getattr(attack, "steps", 1))


def most_gradients(attack: Any, size: int) -> int | None:
    """Return the most gradients per image that an attack can take; None if that is not known.

    Args:
        attack: the attack.
        size: entries of an image.
    """
    if isinstance(attack, JSMA):
        return (int(float(attack.gamma) * size / 2) + 1) * (2 if attack.saliency == "logits" else 1)
    if isinstance(attack, DeepFool):
        return attack.steps * attack.k
    if isinstance(attack, UAP):
        return 0
    if hasattr(attack, "search_steps") and hasattr(attack, "steps"):
        return int(attack.search_steps * attack.steps * getattr(attack, "copies", 1))
    return gradients(attack)


def forwards(attack: Any) -> int | None:
    """Return the forward passes per image beside those in the gradients; None if not known.

    More than one step ends with one, for the last iterate; finding the least likely class costs one (on a
    deterministic model).  So does judging each restart, and so do the clean image's activations.
    """
    if isinstance(attack, Restarts):
        each = forwards(attack.attack)
        return None if each is None else (each + 1) * attack.n
    steps = gradients(attack)
    if not steps:
        return steps
    finds_its_target = attack.card.goal == "targeted" and not hasattr(attack, "targeted")
    looks_at_clean = sees_activations(getattr(attack, "loss", "logit_gap"))
    return int(steps > 1) + int(finds_its_target) + int(looks_at_clean)

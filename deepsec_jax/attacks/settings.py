"""An attack as plain values, for configs and tables."""

from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np

from deepsec_jax.attacks.combinators import Restarts
from deepsec_jax.catalog import versions


def hyperparameters(attack: Any) -> dict[str, Any]:
    """Return field -> plain value of an attack: functions by name, nested attacks written out.

    ``Restarts`` has the fields of its inner attack and ``restarts``, as in a preset.  Fields that only divide
    the work to save memory are left out.
    """
    if isinstance(attack, Restarts):
        return {**hyperparameters(attack.attack), "restarts": attack.n}
    named = (field.name for field in fields(attack) if not field.metadata.get("only_memory"))
    return {name: _plain(getattr(attack, name)) for name in named}


def described(attack: Any) -> dict[str, Any]:
    """Return an attack's entries in a config: ``class``, ``hyperparameters``, ``versions``."""
    return {
        "class": class_of(attack), "hyperparameters": hyperparameters(attack), "versions": versions(attack)
    }  # fmt: skip


def class_of(attack: Any) -> str:
    """Return the name of an attack's class; for ``Restarts``, that of its inner attack."""
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

"""Checks of fields of attacks: norms, inner attacks."""

import inspect
from typing import Any

from deepsec_jax.attacks.geometry import NORMS, find_norm
from deepsec_jax.field_checks import Check


def norm_of(*norms: str) -> Check:
    """Return a check for a norm by its name or number; default L-inf or L2."""
    return lambda value: find_norm(value, norms or NORMS)


def an_attack(value: Any) -> Any:
    """Return an attack, or jax's placeholder, unchanged."""
    if isinstance(value, type) or inspect.isroutine(value):
        raise ValueError(f"must be an attack, got {value.__name__}: give an object such as PGD(eps=0.1)")
    if isinstance(value, str | float):
        raise ValueError(f"must be an attack, got {value!r}: give an object such as PGD(eps=0.1)")
    return value


def some_attacks(value: Any) -> Any:
    """Return a tuple of attacks, or jax's placeholder, unchanged."""
    if hasattr(value, "targets"):
        raise ValueError(f"must be a tuple of attacks, got one: give ({value!r},)")
    if isinstance(value, tuple | list):
        if not value:
            raise ValueError("is empty: give at least one attack")
        for attack in value:
            an_attack(attack)
    return value

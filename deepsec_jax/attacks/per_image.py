"""Hyperparameters with one value per image: an array eps [B] instead of a number.

Such an attack belongs to its batch, row by row.  Code that slices or sorts the batch does the same with the
attack, by :func:`at_rows`.  A body under ``attack_call`` gets such a field as [B, 1, 1, 1], which broadcasts
against the images [B, H, W, C].
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")

SCALED = ("step_size", "alpha")
"""Fields that are scaled with eps."""

PER_IMAGE = ("eps", "largest", "radius", *SCALED)
"""Fields with one value per image: radii, and step lengths of attacks with an eps."""


def map_per_image(function: Callable[[Any], Any], attack: T, others: Callable[[Any], Any] = lambda x: x) -> T:
    """Return the attack and inner attacks with ``function`` applied to each field of values per image.

    A model inside the attack (a surrogate) is one leaf; its fields are ignored.

    Args:
        function: applied to arrays [B], and to stored images [B, H, W, C].
        attack: an attack.
        others: applied to every other leaf.
    """

    def mapped(path: tuple[Any, ...], leaf: Any) -> Any:
        if names := _row_fields(leaf):
            return leaf.replace(**{name: function(getattr(leaf, name)) for name in names})
        return function(leaf) if _is_per_image(path, leaf) else others(leaf)

    result: T = jax.tree_util.tree_map_with_path(mapped, attack, is_leaf=_is_whole)
    return result


def at_rows(attack: T, rows: Any) -> T:
    """Return the attack for these rows of its batch; unchanged without values per image.

    Args:
        attack: an attack.
        rows: an index of arrays [B].
    """
    return map_per_image(lambda values: values[rows], attack)


def _row_fields(part: Any) -> tuple[str, ...]:
    """Return the fields of a part, such as FixedImages, that its class declares to have one row per image."""
    names: tuple[str, ...] = getattr(type(part), "per_image", ())
    return names


def _is_whole(part: Any) -> bool:
    return is_model(part) or bool(_row_fields(part))


def is_model(part: Any) -> bool:
    """Tell whether a callable is a classifier; an attack has ``targets``."""
    return callable(part) and not hasattr(part, "targets")


def _is_per_image(path: tuple[Any, ...], leaf: Any) -> bool:
    name = getattr(path[-1], "name", None) if path else None
    return name in PER_IMAGE and isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 1


def meeting_images(attack: T, rows: int) -> T:
    """Return the attack with its own values per image as [B, 1, 1, 1]; inner attacks keep theirs.

    Raises:
        ValueError: a number of the attack, or of its step rule, is an array of another shape.
    """
    own = {name: value for name, value in _numbers(attack).items() if np.ndim(value)}
    for name, value in own.items():
        where, shape = f"{type(attack).__name__}.{name}", list(np.shape(value))
        if name not in PER_IMAGE or (name in SCALED and not hasattr(attack, "eps")):
            raise ValueError(
                f"{where} has shape {shape}: give one number; only eps and its steps may differ per image"
            )
        if shape != [rows]:
            raise ValueError(f"{where} has shape {shape}: give one number, or one per image, [{rows}]")
    if not own:
        return attack
    changes = {name: value[:, None, None, None] for name, value in own.items()}
    result: T = attack.replace(**changes)  # type: ignore[attr-defined]  # as every attack can
    return result


def one_per_row(attack: T) -> T:
    """Return the attack with values of :func:`meeting_images` as [B] again, for other functions."""
    given = {name: getattr(attack, name) for name in PER_IMAGE if np.ndim(getattr(attack, name, 0)) == 4}
    result: T = attack.replace(**{name: value.reshape(-1) for name, value in given.items()})  # type: ignore[attr-defined]
    return result


def _numbers(part: Any) -> dict[str, Any]:
    """Return name -> value of the numeric fields; those of a part are named like ``rule.decay``."""
    if not is_dataclass(part):
        return {}
    found: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if is_number(field.default) or field.name in PER_IMAGE:
            found[field.name] = value
        elif not callable(value):  # an inner attack checks its own fields when it is called
            found |= {f"{field.name}.{name}": each for name, each in _numbers(value).items()}
    return found


def is_number(default: Any) -> bool:
    """Tell by a field's default whether the field is a number."""
    return isinstance(default, int | float) and not isinstance(default, bool)

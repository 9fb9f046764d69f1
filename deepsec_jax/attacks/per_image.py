"""Hyperparameters with one value per image: an array eps [B] in the place of a number.

An attack that holds one belongs to its batch, row by row: whoever cuts or sorts the batch cuts the attack
with it, by :func:`at_rows`.  A body under ``attack_call`` gets such a field as [B, 1, 1, 1], which meets the
images [B, H, W, C] of its batch and nothing else.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")

SCALED = ("step_size", "alpha")
"""Fields that stay in proportion to eps."""

PER_IMAGE = ("eps", "largest", "radius", *SCALED)
"""Fields that may differ from image to image: radii, and the lengths of steps beside an eps."""


def map_per_image(function: Callable[[Any], Any], attack: T, others: Callable[[Any], Any] = lambda x: x) -> T:
    """Return the attack, and the attacks it holds, with ``function`` of every field of one value per image.

    A model that the attack holds (a surrogate) is one leaf, and no field of it is looked at.

    Args:
        function: applied to arrays [B].
        attack: an attack.
        others: applied to every other leaf.
    """

    def mapped(path: tuple[Any, ...], leaf: Any) -> Any:
        return function(leaf) if _is_per_image(path, leaf) else others(leaf)

    result: T = jax.tree_util.tree_map_with_path(mapped, attack, is_leaf=is_model)
    return result


def at_rows(attack: T, rows: Any) -> T:
    """Return the attack for these rows of its batch; an attack without values per image is returned as it is.

    Args:
        attack: an attack.
        rows: an index of arrays [B].
    """
    return map_per_image(lambda values: values[rows], attack)


def is_model(part: Any) -> bool:
    """Tell a classifier from an attack, which can be called as well, but names its targets."""
    return callable(part) and not hasattr(part, "targets")


def _is_per_image(path: tuple[Any, ...], leaf: Any) -> bool:
    name = getattr(path[-1], "name", None) if path else None
    return name in PER_IMAGE and isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 1


def meeting_images(attack: T, rows: int) -> T:
    """Return the attack with its own values per image as [B, 1, 1, 1]; attacks that it holds keep theirs.

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
    """Return the attack with values of :func:`meeting_images` as [B] again, to be handed on to others."""
    given = {name: getattr(attack, name) for name in PER_IMAGE if np.ndim(getattr(attack, name, 0)) == 4}
    result: T = attack.replace(**{name: value.reshape(-1) for name, value in given.items()})  # type: ignore[attr-defined]
    return result


def _numbers(part: Any) -> dict[str, Any]:
    """Return name -> value of the fields that hold numbers, ``rule.decay`` for those of a part."""
    if not is_dataclass(part):
        return {}
    found: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if is_number(field.default) or field.name in PER_IMAGE:
            found[field.name] = value
        elif not callable(value):  # an attack looks after its own fields, when it is called
            found |= {f"{field.name}.{name}": each for name, each in _numbers(value).items()}
    return found


def is_number(default: Any) -> bool:
    """Tell by a field's default whether the field holds a number."""
    return isinstance(default, int | float) and not isinstance(default, bool)

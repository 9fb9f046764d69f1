"""Checks of a field's value: ``steps: int = static(15, check=count)``.

A check takes a value and returns the field's value, or raises ValueError with the requirement and the value.
:class:`deepsec_jax.pytree.Struct` calls it when an object is created, and adds the names of class and field
to the message.  In traced fields, Python and NumPy numbers are checked.  Tracers and placeholders pass, and
so do arrays on a device, since a check would wait for it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Check = Callable[[Any], Any]
"""``check(value) -> value``; raises ValueError("must be ..., got ...")."""


def integer(least: int, most: float = math.inf) -> Check:
    """Return a check for integers from ``least`` to ``most``."""
    wanted = f"of at least {least}" if most == math.inf else f"from {least} to {most:g}"

    def check(value: Any) -> Any:
        """Return an integer in range."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
            raise ValueError(f"must be an integer {wanted}, got {value!r}")
        return int(value)

    return check


count = integer(1)
"""An integer of at least 1."""


def flag(value: Any) -> Any:
    """Return True or False unchanged."""
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, got {value!r}")
    return value


def one_of(*names: str) -> Check:
    """Return a check for strings."""

    def check(value: Any) -> Any:
        """Return a known text."""
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"must be one of {', '.join(names)}, got {value!r}")
        return value

    return check


def text(value: Any) -> Any:
    """Return a string unchanged."""
    if not isinstance(value, str):
        raise ValueError(f"must be a text, got {value!r}")
    return value


def each(check: Check, *, least: int = 0) -> Check:
    """Return a check for tuples of at least ``least`` values that pass ``check``."""

    def checked(value: Any) -> Any:
        if not isinstance(value, tuple | list) or len(value) < least:
            raise ValueError(f"must be a tuple of at least {least} values, got {value!r}")
        return type(value)(check(part) for part in value)

    return checked


def function(value: Any) -> Any:
    """Return a callable unchanged."""
    if not callable(value):
        raise ValueError(f"must be a function, got {value!r}")
    return value


def optional(check: Check) -> Check:
    """Return a check that allows None."""
    return lambda value: None if value is None else check(value)


def _numbers(wanted: str, fits: Callable[[float], bool]) -> Check:
    """Return a check for finite numbers, or NumPy arrays of them, for which ``fits`` is true."""

    def check(value: Any) -> Any:
        """Return a number in range, or a value that is not a Python or NumPy number."""
        if isinstance(value, str):
            raise ValueError(f"must be a number, got {value!r}")
        if isinstance(value, list | tuple) and any(isinstance(part, float) for part in value):
            raise ValueError(f"must be a number or an array, got {value!r}: use numpy.array")
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind in "USOMmc":
                raise ValueError(f"must be a number, got {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return value
        for number in value.ravel() if isinstance(value, np.ndarray) else (value,):
            if not math.isfinite(number) or not fits(number):
                raise ValueError(f"must be finite and {wanted}, got {number:g}")
        return value

    return check


not_negative = _numbers("at least 0", lambda number: number >= 0)
positive = _numbers("above 0", lambda number: number > 0)
not_zero = _numbers("not 0", lambda number: number != 0)
share = _numbers("from 0 to 1", lambda number: 0 <= number <= 1)
proper_share = _numbers("at least 0 and below 1", lambda number: 0 <= number < 1)
any_number = _numbers("a number", lambda number: True)
"""Checks of numbers."""


def usual(default: Any, *, is_static: bool) -> Check | None:
    """Return the default check of an algorithm's field, from its default value; None if there is none.

    A flag must be True or False; a static integer at least 1, or at least 0 if that is its default; any other
    number at least 0.
    """
    if isinstance(default, bool):
        return flag if is_static else None
    if isinstance(default, int) and is_static:
        return count if default > 0 else integer(0)
    if isinstance(default, int | float):
        return not_negative
    return None

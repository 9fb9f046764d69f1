"""Checks of option values that several verbs share; each error is one line with value and remedy."""

from collections.abc import Sequence

from deepsec_jax.cli import InputError


def at_least(option: str, value: int, least: int) -> None:
    """Raise InputError for a number below the least that makes sense."""
    if value < least:
        raise InputError(f"{option} must be at least {least}, got {value}")


def once(option: str, names: Sequence[str]) -> None:
    """Raise InputError for a name that is given twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{option} names {', '.join(twice)} more than once: name each once")

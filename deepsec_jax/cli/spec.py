"""``--spec FILE.toml``: a verb's options from a file, by the names and types of its dataclass.

# attacks.toml, for deepsec evaluate attacks --spec attacks.toml
model = "runs/models/mnist-small"
attacks = ["fgsm", "pgd"]
n = 1000
"""

import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from deepsec_jax.cli import InputError

_NOT_IN_A_FILE = ("spec", "dry_run")


def defaults(verb: type, words: Sequence[str]) -> Any | None:
    """Return the verb with the values of the ``--spec`` file, or None without one.

    Required options that are not in the file are ``tyro.MISSING``.

    Args:
        verb: dataclass of the verb.
        words: command line after ``deepsec``.

    Raises:
        InputError: no such file, not TOML, an unknown name or a value of another type.
    """
    path = option("--spec", words)
    if path is None or "spec" not in {field.name for field in fields(verb)}:
        return None
    values = read(Path(path), verb)
    for field in fields(verb):
        if field.name not in values and field.default is MISSING:
            values[field.name] = tyro.MISSING
    return verb(**values)


def option(name: str, words: Sequence[str]) -> str | None:
    """Return the value of ``--name VALUE`` or ``--name=VALUE``; None if missing."""
    for word, following in zip(words, (*words[1:], None), strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def read(path: Path, verb: type) -> dict[str, Any]:
    """Return option -> value of a TOML file, checked against the verb's dataclass.

    Raises:
        InputError: see :func:`defaults`.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give --spec a TOML file") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise InputError(f"{path} is no TOML ({error}): write lines like n = 1000") from None
    hints = get_type_hints(verb)
    known = [field.name for field in fields(verb) if field.name not in _NOT_IN_A_FILE]
    checked = {}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(name, known, n=2, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"{path} has unknown option {name!r}.{hint} Known: {', '.join(known)}.")
        fitted = _fit(value, hints[name])
        if fitted is None:
            raise InputError(f"{path}: {name} must be {_in_words(hints[name])}, got {value!r}")
        checked[name] = fitted
    return checked


def _fit(value: Any, hint: Any) -> Any | None:
    """Return a TOML value converted to the type; None if it does not match."""
    if get_origin(hint) in (Union, UnionType):
        fitted = (_fit(value, part) for part in get_args(hint) if part is not NoneType)
        return next((part for part in fitted if part is not None), None)
    if get_origin(hint) is Literal:
        return value if isinstance(value, str) and value in get_args(hint) else None
    if get_origin(hint) is tuple:
        parts = [_fit(part, get_args(hint)[0]) for part in value] if isinstance(value, list) else [None]
        return None if None in parts else tuple(parts)
    if hint is Path:
        return Path(value) if isinstance(value, str) else None
    if hint is float and type(value) is int:
        return float(value)
    return value if type(value) is hint else None  # TOML's true is not 1


def _in_words(hint: Any) -> str:
    """Return the description of a type hint for errors."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_in_words(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list, each {_in_words(get_args(hint)[0])}"
    names = {str: "a string", Path: "a path in quotes", int: "an integer", float: "a number"}
    return names.get(hint, "true or false")

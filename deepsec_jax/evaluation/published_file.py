"""A file of the paper's numbers: read once, with reasons for differences, names and notes in it."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Reason:
    """Why a number of ours may differ from the paper's.

    Attributes:
        label: a few words.
        text: the explanation, one paragraph.
    """

    label: str
    text: str


@dataclass(frozen=True)
class Printed:
    """One number as the paper prints it.

    Attributes:
        value: shares in [0, 1], seconds, or the column's unit; NaN where the paper has none.
        absent: why there is none; empty if there is one.
    """

    value: float
    absent: str = ""


@cache
def contents(file: str) -> dict[str, Any]:
    """Return what a TOML file of this package says; it is read once and must not be changed."""
    return tomllib.loads(resources.files("deepsec_jax.evaluation").joinpath(file).read_text("utf-8"))


def reasons_for(entries: Sequence[Mapping[str, Any]], **wanted: str) -> tuple[Reason, ...]:
    """Return the reasons that hold of what is wanted, in the order of the file.

    Args:
        entries: ``reasons`` of a file; each holds of what its lists name, of all without one.
        wanted: the lists' names, e.g. ``data``, ``rows``, ``columns``, each with one value.
    """
    return tuple(
        Reason(entry["label"], one_line(entry["text"]))
        for entry in entries
        if all(value in entry.get(key, (value,)) for key, value in wanted.items())
    )


def label_of(labels: Mapping[str, str], row: str) -> str:
    """Return the paper's name of a row, or the row's own, with its variant if it is one."""
    name, _, variant = row.partition("@")
    known = str(labels.get(name, name))
    return f"{known}, {variant}" if variant else known


def place_of(names: Sequence[str], name: str) -> int:
    """Return the place of a name in the paper's order; one that it does not have comes last."""
    return names.index(name) if name in names else len(names)


def one_line(text: str) -> str:
    """Return a paragraph of a file without its line breaks."""
    return " ".join(text.split())

"""The paper's Tables XIV (MNIST) and III (CIFAR-10) as data, and why ours may differ from them.

The numbers and the reasons lie in ``published.toml``; rows go by the names of ``attacks.ROWS``, columns by
those of ``metrics.METRICS``.
"""

import math
import tomllib
from collections.abc import Mapping
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
def _contents() -> dict[str, Any]:
    text = resources.files("deepsec_jax.evaluation").joinpath("published.toml").read_text("utf-8")
    return tomllib.loads(text)


def table_title(dataset: str, preset: str, recipe: str | None) -> str | None:
    """Return the paper's title for a run, e.g. ``Table XIV (MNIST)``; None if it may not carry it.

    A run carries it with the paper's hyperparameters and the paper's training recipe, and no other way.

    Args:
        dataset: data set name.
        preset: kind of preset.
        recipe: name of the recipe that the model was trained by; None for a model from elsewhere.
    """
    table = _contents()["tables"].get(dataset)
    if table is None or preset != "paper" or recipe != table["recipe"]:
        return None
    return f"{table['table']} ({table['data']})"


def why_untitled(dataset: str, preset: str, recipe: str | None) -> str:
    """Return why a run does not stand under the paper's title, one sentence; empty if it does."""
    table = _contents()["tables"].get(dataset)
    if table is None:
        return f"The paper has no table of {dataset}."
    if preset != "paper":
        return f"Not {table['table']}: the hyperparameters are {preset}, not the paper's."
    if recipe is None:
        return f"Not {table['table']}: the model does not say that it was trained by the paper's recipe."
    if recipe != table["recipe"]:
        return f"Not {table['table']}: the model is of recipe {recipe}, not of {table['recipe']}."
    return ""


def rows_of(dataset: str) -> tuple[str, ...]:
    """Return the names of the table's rows in its order; none for a set without a table."""
    return tuple(_contents()["tables"].get(dataset, {}).get("rows", ()))


def printed(dataset: str, preset: str, row: str, column: str) -> Printed:
    """Return what the paper prints where our column stands.

    Args:
        dataset: data set name.
        preset: kind of preset; only ``paper`` has numbers to compare with.
        row: preset name, e.g. ``fgsm@0.5``.
        column: name in ``metrics.METRICS``.
    """
    contents = _contents()
    table = contents["tables"].get(dataset)
    if table is None:
        return Printed(math.nan, f"the paper has no table of {dataset}")
    if preset != "paper":
        return Printed(math.nan, f"the paper has no {preset} settings")
    if row not in table["rows"]:
        return Printed(math.nan, "no row of the paper's table")
    name = contents["same"].get(column, column)
    if name not in contents["columns"]:
        return Printed(math.nan, "no column of the paper's table")
    value = float(table["rows"][row][contents["columns"].index(name)])
    if math.isnan(value):
        return Printed(math.nan, table["absent"][row][name])
    return Printed(value / 100 if name == "mr" else value)


def reasons(dataset: str, row: str, column: str) -> tuple[Reason, ...]:
    """Return why a number may differ from the printed one, the most special reasons first."""
    wanted = {"data": dataset, "rows": row, "columns": column}
    return tuple(
        Reason(entry["label"], " ".join(entry["text"].split()))
        for entry in _contents()["reasons"]
        if holds(entry, wanted)
    )


def holds(entry: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Tell whether a reason of a file is one of what is wanted: data, rows and columns."""
    return all(value in entry.get(key, (value,)) for key, value in wanted.items())


def label(row: str) -> str:
    """Return the paper's name of a row, or the row's own."""
    return str(_contents()["labels"].get(row, row))


def group(row: str) -> tuple[str, str] | None:
    """Return (``UAs`` or ``TAs``, norm of the objective) under which the paper files a row, or None."""
    for entry in _contents()["groups"]:
        if row in entry["rows"]:
            return entry["goal"], entry["objective"]
    return None


def position(row: str) -> int:
    """Return the place of a row in the paper's order; a row that it does not have comes last."""
    names = list(_contents()["labels"])
    return names.index(row) if row in names else len(names)


def columns() -> tuple[str, ...]:
    """Return the names of the columns that the paper's tables have."""
    return tuple(_contents()["columns"])


def note(column: str) -> str:
    """Return what a reader should know of the paper's forms of a column; mostly empty."""
    return " ".join(_contents()["notes"].get(column, "").split())

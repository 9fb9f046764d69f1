"""The paper's Table IV (utility of complete defenses) as data, and why ours may differ from it.

The numbers and the reasons lie in ``published_defenses.toml``; rows go by the names of ``defenses.DEFENSES``,
columns by those of ``utility.utility_columns``.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from deepsec_jax.evaluation.published_file import (
    Printed,
    Reason,
    contents,
    label_of,
    one_line,
    place_of,
    reasons_for,
)

_contents = partial(contents, "published_defenses.toml")

PERCENT = ("accuracy", "cav", "crr", "csr", "ccv")
"""Columns that the table prints in percent."""


LACKING = "table of defenses on"
"""What a data set without a table has none of."""


def table_of(dataset: str) -> Mapping[str, Any] | None:
    """Return the paper's table of a data set: ``table`` (its title), ``data``, ``recipe``; None without."""
    known = _contents()
    return known["tables"][dataset] | {"table": known["table"]} if dataset in known["tables"] else None


def table_title(dataset: str) -> str:
    """Return the title of the paper's table of a data set that has one, e.g. ``Table IV (MNIST)``."""
    return f"{_contents()['table']} ({_contents()['tables'][dataset]['data']})"


def rows_of(dataset: str) -> tuple[str, ...]:
    """Return the names of the table's rows in its order; none for a set without a table."""
    return tuple(_contents()["tables"].get(dataset, {}).get("rows", ()))


def undefended(dataset: str) -> float:
    """Return the accuracy of the paper's undefended model, in [0, 1]; NaN without a table."""
    return float(_contents()["tables"].get(dataset, {}).get("undefended", math.nan)) / 100


def printed(dataset: str, row: str, column: str) -> Printed:
    """Return what the paper prints where our column stands.

    Args:
        dataset: data set name.
        row: preset name; a variant such as ``pat@half`` stands beside the numbers of its defense.
        column: name in ``utility.utility_columns``.
    """
    known = _contents()
    table = known["tables"].get(dataset)
    if table is None:
        return Printed(math.nan, f"the paper has no table of defenses on {dataset}")
    name = row.partition("@")[0]
    if name not in table["rows"]:
        return Printed(math.nan, "no row of the paper's table")
    if column not in known["columns"]:
        return Printed(math.nan, "no column of the paper's table")
    value = float(table["rows"][name][known["columns"].index(column)])
    if math.isnan(value):
        return Printed(math.nan, table["absent"][name][column])
    return Printed(value / 100 if column in PERCENT else value)


def reasons(dataset: str, row: str, column: str) -> tuple[Reason, ...]:
    """Return why a number may differ from the printed one, the most special reasons first."""
    name = row.partition("@")[0]
    return reasons_for(_contents()["reasons"], data=dataset, rows=name, columns=column)


def label(row: str) -> str:
    """Return the paper's name of a row, with its variant if it is one."""
    return label_of(_contents()["labels"], row)


def category(row: str) -> str:
    """Return under what the paper files a row; empty for one that it does not have."""
    name = row.partition("@")[0]
    return next((entry["name"] for entry in _contents()["categories"] if name in entry["rows"]), "")


def position(row: str) -> int:
    """Return the place of a row in the paper's order; a row that it does not have comes last."""
    return place_of(list(_contents()["labels"]), row.partition("@")[0])


def columns() -> tuple[str, ...]:
    """Return the names of the columns that the paper's table has."""
    return tuple(_contents()["columns"])


def note(column: str) -> str:
    """Return what a reader should know of the paper's forms of a column; mostly empty."""
    return one_line(_contents()["notes"].get(column, ""))

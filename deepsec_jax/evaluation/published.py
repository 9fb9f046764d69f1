"""The paper's Tables XIV (MNIST) and III (CIFAR-10) as data, and why ours may differ from them.

The numbers and the reasons lie in ``published.toml``; rows go by the names of ``attacks.ROWS``, columns by
those of ``metrics.METRICS``.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from deepsec_jax.evaluation.published_file import Printed, Reason, contents, one_line, place_of, reasons_for

_contents = partial(contents, "published.toml")


LACKING = "table of"
"""What a data set without a table has none of."""


def table_of(dataset: str) -> Mapping[str, Any] | None:
    """Return the paper's table of a data set: ``table`` (its title), ``data``, ``recipe``; None without."""
    found: Mapping[str, Any] | None = _contents()["tables"].get(dataset)
    return found


def table_title(dataset: str) -> str:
    """Return the title of the paper's table of a data set that has one, e.g. ``Table XIV (MNIST)``."""
    table = _contents()["tables"][dataset]
    return f"{table['table']} ({table['data']})"


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
    known = _contents()
    table = known["tables"].get(dataset)
    if table is None:
        return Printed(math.nan, f"the paper has no table of {dataset}")
    if preset != "paper":
        return Printed(math.nan, f"the paper has no {preset} settings")
    if row not in table["rows"]:
        return Printed(math.nan, "no row of the paper's table")
    name = known["same"].get(column, column)
    if name not in known["columns"]:
        return Printed(math.nan, "no column of the paper's table")
    value = float(table["rows"][row][known["columns"].index(name)])
    if math.isnan(value):
        return Printed(math.nan, table["absent"][row][name])
    return Printed(value / 100 if name == "mr" else value)


def reasons(dataset: str, row: str, column: str) -> tuple[Reason, ...]:
    """Return why a number may differ from the printed one, the most special reasons first."""
    return reasons_for(_contents()["reasons"], data=dataset, rows=row, columns=column)


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
    return place_of(list(_contents()["labels"]), row)


def columns() -> tuple[str, ...]:
    """Return the names of the columns that the paper's tables have."""
    return tuple(_contents()["columns"])


def note(column: str) -> str:
    """Return what a reader should know of the paper's forms of a column; mostly empty."""
    return one_line(_contents()["notes"].get(column, ""))

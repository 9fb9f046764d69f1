"""The paper's numbers of one study, reasons for differences, and the paper's names of rows.

They are in ``paper/STUDY.toml``, with one schema:

    covers = "table of defenses on"      name of the table, before the name of a data set
    model = "the undefended model"       its recipe must be the paper's to carry the paper's title
    variants = true                      row ``pat@half`` is compared with ``pat``; default: no
    percent = [COLUMN...]                columns printed in percent
    columns = [COLUMN...]                in the order of a row's numbers
    [same] OURS = COLUMN                 our columns with the paper's quantity in another form
    [labels] NAME = TEXT                 rows or spans, in the paper's order
    [[groups]] words, rows               the paper's groups of rows
    [tables.DATA] table, data, recipe    title; DATA is a data set, or two words, e.g. ``mnist sweep``
    [tables.DATA.rows] NAME = [...]      nan: the paper prints none; or {SPAN = [...], examples = 608}
    [tables.DATA.absent.NAME] COLUMN = TEXT     reason for a nan
    [tables.DATA.averages] ...           averages that it prints, in percent: studies/security/averages.py
    [[notes]] text, data | columns       note on a table or a column
    [[reasons]] label, text              most specific first; data, rows, spans, columns: where
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Reason:
    """A reason why our number may differ from the paper's.

    Attributes:
        label: a few words.
        text: the explanation, one paragraph.
    """

    label: str
    text: str


@dataclass(frozen=True)
class Printed:
    """One number of the paper.

    Attributes:
        value: share in [0, 1], seconds, or the column's unit; NaN if the paper has none.
        absent: reason for a missing number; empty if there is one.
    """

    value: float
    absent: str = ""


@dataclass(frozen=True)
class Published:
    """The paper's numbers of one study.

    Attributes:
        study: name of the file.
    """

    study: str

    @cached_property
    def _known(self) -> Mapping[str, Any]:
        if not self.study:
            empty: dict[str, Any] = {"percent": (), "columns": (), "tables": {}, "labels": {}}
            return {"covers": "table of", "model": "", "reasons": (), **empty}
        file = resources.files("deepsec_jax.tables").joinpath("paper", f"{self.study}.toml")
        return tomllib.loads(file.read_text("utf-8"))

    def _table(self, data: str) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self._known["tables"].get(data, {})
        return table

    def _row(self, row: str) -> str:
        return row.partition("@")[0] if self._known.get("variants") else row

    def title(self, data: str) -> str:
        """Return the title of a data set's table, e.g. ``Table IV (MNIST)``; empty without one."""
        table = self._table(data)
        return f"{table['table']} ({table['data']})" if table else ""

    @property
    def covers(self) -> str:
        """Name of the paper's table, before the name of a data set."""
        return str(self._known["covers"])

    @property
    def model(self) -> str:
        """Name of the model whose recipe must be the paper's to carry its title."""
        return str(self._known["model"])

    def columns(self, data: str = "") -> tuple[str, ...]:
        """Return the names of a table's columns."""
        return tuple(self._table(data).get("columns", self._known["columns"]))

    def rows(self, data: str) -> tuple[str, ...]:
        """Return the names of a table's rows in its order; none without a table."""
        return tuple(self._table(data).get("rows", ()))

    def labels(self) -> tuple[str, ...]:
        """Return the names with labels in the paper, in its order."""
        return tuple(self._known["labels"])

    def said(self, data: str, name: str) -> Any:
        """Return another entry of a table, e.g. the undefended model's accuracy; None if it is missing."""
        return self._table(data).get(name)

    def printed(self, data: str, row: str, column: str, span: str = "") -> Printed:
        """Return the paper's number for a figure of ours.

        Args:
            data: data set name.
            row: preset name, e.g. ``fgsm@0.5``.
            column: name of our column.
            span: preset name of what the figure is of, e.g. a detector, where rows are of several.
        """
        table, row = self._table(data), self._row(row)
        if not table:
            return Printed(math.nan, f"the paper has no {self.covers} {data}")
        values = table["rows"].get(row)
        if isinstance(values, Mapping):
            values = values.get(span.partition("@")[0])
        if values is None:
            return Printed(math.nan, "no row of the paper's table")
        name = self._known.get("same", {}).get(column, column)
        if name not in self.columns(data):
            return Printed(math.nan, "no column of the paper's table")
        value = float(values[self.columns(data).index(name)])
        if math.isnan(value):
            return Printed(math.nan, table["absent"][row][name])
        return Printed(value / 100 if name in self._known["percent"] else value)

    def examples(self, data: str, row: str) -> int | None:
        """Return over how many examples the paper's row is; None if unknown."""
        values = self._table(data).get("rows", {}).get(row)
        return values.get("examples") if isinstance(values, Mapping) else None

    def reasons(self, data: str, row: str, column: str, span: str = "") -> tuple[Reason, ...]:
        """Return why a number may differ from the printed one, the most special reasons first."""
        wanted = {"data": data, "rows": self._row(row), "columns": column, "spans": span.partition("@")[0]}
        return tuple(
            Reason(entry["label"], _one_line(entry["text"]))
            for entry in self._known["reasons"]
            if all(value in entry.get(key, (value,)) for key, value in wanted.items())
        )

    def notes(self, *, data: str = "", column: str = "") -> tuple[str, ...]:
        """Return the notes on a data set's table, or on a column."""
        return tuple(
            _one_line(entry["text"])
            for entry in self._known.get("notes", ())
            if data in entry.get("data", ()) or column in entry.get("columns", ())
        )

    def label(self, name: str) -> str:
        """Return the paper's name of a row or span, with its variant; its own name if the paper has none."""
        labels: Mapping[str, str] = self._known["labels"]
        base, _, variant = name.partition("@")
        if name in labels or base not in labels:
            return labels.get(name, name)
        return f"{labels[base]}, {variant}"

    def group(self, row: str) -> tuple[str, ...]:
        """Return the paper's group of a row, e.g. ``("UAs", "L2")``; empty for one that it does not have."""
        found = (entry for entry in self._known.get("groups", ()) if self._row(row) in entry["rows"])
        return next((tuple(entry["words"]) for entry in found), ())

    def position(self, name: str) -> int:
        """Return the position of a row or span in the paper's order; unknown ones come last."""
        names: Sequence[str] = self.labels()
        known = name if name in names else name.partition("@")[0]
        return names.index(known) if known in names else len(names)


UNPUBLISHED = Published("")
"""For a study that is not in the paper."""


def _one_line(text: str) -> str:
    """Return a paragraph of a file without its line breaks."""
    return " ".join(text.split())

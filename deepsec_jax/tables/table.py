"""Data classes of tables: figures in rows, rows in tables, the tables of one model in a section."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepsec_jax.metrics import Column, Summary
from deepsec_jax.runs.cells import Cell
from deepsec_jax.tables.published import Printed, Reason

NOTHING = Summary(math.nan, 0, math.nan, math.nan)
"""The summary of a missing figure."""

FAILED = "failed"
"""The reason for a figure whose cell failed."""


@dataclass(frozen=True)
class Figure:
    """One figure of a table.

    Attributes:
        column: of the figure.
        summary: mean, n and 95 % interval; NaN and 0 if missing.
        absent: reason for a missing figure; empty if there is one.
        printed: the paper's number.
        reasons: why the two may differ; empty if there is nothing to compare.
        cell: its source; None if it is over several cells, or missing.
    """

    column: Column
    summary: Summary
    absent: str
    printed: Printed
    reasons: tuple[Reason, ...] = ()
    cell: Cell | None = None

    @property
    def difference(self) -> float:
        """Ours minus the paper's; NaN if one is missing."""
        return self.summary.mean - self.printed.value

    @property
    def inside(self) -> bool:
        """Whether the paper's number lies in our 95 % interval, to its printed digits."""
        fine = self.column.unit == "s" or self.column.section == "II-D"
        half = 0.00005 if fine else 0.0005
        return self.summary.low - half <= self.printed.value <= self.summary.high + half


@dataclass(frozen=True)
class Finding:
    """A warning about a row.

    Attributes:
        label: a few words.
        text: the figures and their meaning, one sentence.
    """

    label: str
    text: str


@dataclass(frozen=True)
class Span:
    """Adjacent columns: a family of metrics, or those of one detector.

    Attributes:
        columns: from left to right.
        label: heading; empty for none.
        key: of their figures in ``Row.figures``.
        detail: text after the label in the terminal.
        fields: its fields in a line of CSV.
    """

    columns: tuple[Column, ...]
    label: str = ""
    key: str = ""
    detail: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One attack, one defense, or one radius.

    Attributes:
        key: unique within its section.
        name: preset row, e.g. ``fgsm@0.5``.
        label: the paper's name.
        figures: span key -> column name -> figure, for all columns of files.
        cells: its source; may be empty.
        group: the paper's group, e.g. ``("UAs", "L2")``.
        n: number of images.
        hits: number of successful ones; None if not applicable.
        printed_n: number of examples of the paper's row; None if unknown.
        base: content of the column for n or for the radius.
        error: of its only cell; None if that is finished, or if there are several.
        struck: whether its figures fail a check, and are printed struck through.
        beside: column name -> figure shown below that column's, e.g. the share of rejected images.
        values: column name -> one value per image.
        findings: inconsistencies.
        fields: its fields in a line of CSV.
        record: its JSON record before the figures.
        records: span key -> JSON record of that part before its figures; empty without parts.
    """

    key: str
    name: str
    label: str
    figures: Mapping[str, Mapping[str, Figure]]
    cells: Mapping[str, Cell]
    group: tuple[str, ...] = ()
    n: int = 0
    hits: int | None = None
    printed_n: int | None = None
    base: str = ""
    error: str | None = None
    struck: bool = False
    beside: Mapping[str, Figure] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, span: Span) -> list[Figure]:
        """Return the figures of a span."""
        return [self.figures[span.key][column.name] for column in span.columns]

    def labels(self) -> list[str]:
        """Return the labels of the findings, each once."""
        return list(dict.fromkeys(finding.label for finding in self.findings))


@dataclass(frozen=True)
class Table:
    """Rows with figures over the same images.

    Attributes:
        kind: name of its rows in files, e.g. ``utility``.
        title: of the table and, after a colon, of its part.
        heading: of the column of names.
        rows: from top to bottom.
        spans: from left to right.
        further: columns that only details and files show.
        note: reason why it does not carry the paper's title.
        about: part of the section, e.g. ``utility``.
        base: heading of the column for n or for the radius; empty if each figure has its own n.
        caption: text after title and note in LaTeX.
        notes: text below the table in LaTeX.
        facts: label -> text.
        parts: name of a row's parts in JSON, e.g. ``detectors``; empty for rows without parts.
        several: whether a section may have several of its kind, each with its own record.
        fields: its fields in a line of CSV.
        record: its JSON record, if there are several.
        page_title: heading on a page.
        intro: text above it on a page.
        findings: heading of the column of findings on a page.
        alarming: whether a finding says that something is wrong; then the page colours it.
    """

    kind: str
    title: str
    heading: str
    rows: tuple[Row, ...]
    spans: tuple[Span, ...]
    further: tuple[Column, ...] = ()
    note: str = ""
    about: str = ""
    base: str = ""
    caption: str = ""
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    parts: str = ""
    several: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    page_title: str = ""
    intro: str = ""
    findings: str = "Inconsistencies"
    alarming: bool = True

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns of the table, then the further ones, each once."""
        every = (*(column for span in self.spans for column in span.columns), *self.further)
        return tuple({column.name: column for column in every}.values())

    def figures(self) -> Iterator[Figure]:
        """Yield the figures of all rows, parts and columns."""
        for row in self.rows:
            for found in row.figures.values():
                yield from found.values()


@dataclass(frozen=True)
class Section:
    """The results on one model with one set of images.

    Attributes:
        title: heading; the paper's only if everything is the paper's.
        note: reason why it is not; empty if it is.
        facts: about the measurement, label -> text.
        fields: ``data``, ``preset`` and the like, for files.
        tables: the first one is the paper's.
        cells: all cells of the section.
        kinds: of tables that it could have; files have a list of each.
        missing: missing rows of the paper's table, each with the reason.
        changed: name, settings that differ from the preset's, kind of preset.
        explained: column whose difference from the paper's number is explained.
        subjects: plural name of the spans, e.g. detectors.
        record: further entries of its JSON record.
    """

    title: str
    note: str
    facts: Mapping[str, str]
    fields: Mapping[str, str]
    tables: tuple[Table, ...]
    cells: tuple[Cell, ...]
    kinds: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    explained: str = ""
    subjects: tuple[Any, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, kind: str) -> tuple[Row, ...]:
        """Return the rows of all tables of a kind."""
        return tuple(row for table in self.tables if table.kind == kind for row in table.rows)

    def spans(self) -> dict[str, Span]:
        """Return key -> span of all spans whose figures differ, in order."""
        found: dict[str, Span] = {}
        for table in self.tables:
            for span in table.spans:
                found.setdefault(span.key, span)
        return found

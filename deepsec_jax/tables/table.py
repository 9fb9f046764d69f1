"""What every table is made of: figures in rows, rows in tables, the tables of one model in a section."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepsec_jax.metrics import Column, Summary
from deepsec_jax.runs.cells import Cell
from deepsec_jax.tables.published import Printed, Reason

NOTHING = Summary(math.nan, 0, math.nan, math.nan)
"""The summary of a figure that is not there."""

FAILED = "failed"
"""Why a figure is absent whose cell failed."""


@dataclass(frozen=True)
class Figure:
    """One figure of a table.

    Attributes:
        column: what it is.
        summary: mean, n and 95 % interval; NaN and 0 where there is none.
        absent: why there is none; empty if there is one.
        printed: what the paper prints.
        reasons: why the two may differ; empty where there is nothing to compare.
        cell: what it is read from; None if it is over several cells, or not there.
    """

    column: Column
    summary: Summary
    absent: str
    printed: Printed
    reasons: tuple[Reason, ...] = ()
    cell: Cell | None = None

    @property
    def difference(self) -> float:
        """Ours less the paper's; NaN where one is missing."""
        return self.summary.mean - self.printed.value

    @property
    def inside(self) -> bool:
        """Whether the printed number lies in our 95 % interval, to the digits it is printed with."""
        fine = self.column.unit == "s" or self.column.section == "II-D"
        half = 0.00005 if fine else 0.0005
        return self.summary.low - half <= self.printed.value <= self.summary.high + half


@dataclass(frozen=True)
class Finding:
    """What a reader must know before trusting a row.

    Attributes:
        label: a few words.
        text: the figures behind it and what it means, one sentence.
    """

    label: str
    text: str


@dataclass(frozen=True)
class Span:
    """Columns that stand together: a family of metrics, or those of one detector.

    Attributes:
        columns: from left to right.
        label: their heading; empty for none.
        key: whose figures of a row they show, see ``Row.figures``.
        detail: what the terminal says after the label.
        fields: what a line of CSV says of it.
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
        key: tells it from others of its section.
        name: preset row, e.g. ``fgsm@0.5``.
        label: the paper's name of it.
        figures: span key -> column name -> figure, of all columns that files show.
        cells: what it is read from; empty if there is nothing.
        group: what the paper files it under, e.g. ``("UAs", "L2")``.
        n: number of images.
        hits: how many of them the attack succeeded on; None where that is no question.
        printed_n: over how many the paper's row is; None where it does not say.
        base: what stands in the column for n or for the radius.
        error: of the one cell it is read from; None if that is finished, or there are several.
        beside: column name -> figure that stands under that column's, e.g. how many images were rejected.
        values: column name -> one value per image.
        findings: what is out of order.
        fields: what a line of CSV says of it.
        record: what JSON says of it before its figures.
        records: span key -> what JSON says of that span's part before its figures; empty without parts.
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
    beside: Mapping[str, Figure] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, span: Span) -> list[Figure]:
        """Return the figures that stand under a span."""
        return [self.figures[span.key][column.name] for column in span.columns]

    def labels(self) -> list[str]:
        """Return the labels of the findings, each once."""
        return list(dict.fromkeys(finding.label for finding in self.findings))


@dataclass(frozen=True)
class Table:
    """Rows whose figures are over the same images.

    Attributes:
        kind: name of its rows in files, e.g. ``utility``.
        title: what it is a table of, and, after a colon, of what part of it.
        heading: of the column of names.
        rows: from top to bottom.
        spans: from left to right.
        further: columns that only details and files show.
        note: why it does not carry the paper's title.
        about: what part of the section it shows, e.g. ``utility``.
        base: heading of the column for n or for the radius; empty where each figure has its own n.
        caption: what LaTeX says after title and note.
        notes: what LaTeX says under it.
        facts: what was done, label -> text.
        parts: name of a row's parts in JSON, e.g. ``detectors``; empty for rows without parts.
        several: whether a section may have several of its kind, each with its own record.
        fields: what a line of CSV says of it.
        record: what JSON says of it, where there are several.
        page_title: heading on a page.
        intro: what a page says above it.
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

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns that the table shows, and then the further ones, each once."""
        every = (*(column for span in self.spans for column in span.columns), *self.further)
        return tuple({column.name: column for column in every}.values())

    def figures(self) -> Iterator[Figure]:
        """Yield the figures of all rows, parts and columns."""
        for row in self.rows:
            for found in row.figures.values():
                yield from found.values()


@dataclass(frozen=True)
class Section:
    """What was measured on one model with one set of images.

    Attributes:
        title: heading; the paper's only where everything is the paper's.
        note: why it is not; empty if it is.
        facts: what was measured and how, label -> text.
        fields: ``data``, ``preset`` and the like, for files.
        tables: the first one is the paper's.
        cells: all cells of the section.
        kinds: of tables that it could have; files have a list of each.
        missing: rows of the paper's table that are not here, each with the reason.
        changed: name, settings that are not the preset's, kind of preset.
        explained: column whose difference from the paper's number is explained in words.
        subjects: what the spans are about, e.g. detectors.
        record: what else JSON says of it.
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

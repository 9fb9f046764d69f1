"""Tables as CSV and JSON, with all digits."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from deepsec_jax.runs.cells import Cell
from deepsec_jax.tables.table import Figure, Row, Section, Span, Table

_FIGURE = ("column", "unit", "over", "mean", "n", "low", "high", "absent", "published", "published_absent",
           "difference", "reasons")  # fmt: skip


def to_csv(sections: Sequence[Section], about: Sequence[str], after: Sequence[str] = ()) -> str:
    """Return one line per figure; missing numbers are empty fields.

    Args:
        sections: the tables.
        about: names of the first fields, after ``section``.
        after: names of fields between the reasons and the error.
    """
    text = io.StringIO()
    headings = ("section", *about, *_FIGURE, *after, "error")
    writer = csv.DictWriter(text, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines(sections))
    return text.getvalue()


def lines(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return one flat dict per figure; missing numbers are None."""
    return [
        line
        for section in sections
        for key, span in section.spans().items()
        for table in section.tables
        for row in (table.rows if any(each.key == key for each in table.spans) else ())
        for line in _lines(section, table, row, span)
    ]


def _lines(section: Section, table: Table, row: Row, span: Span) -> Iterator[dict[str, Any]]:
    about = {"section": section.title, **section.fields, **table.fields, **row.fields, **span.fields}
    if row.findings:
        about["flags"] = "; ".join(row.labels())
    for figure in (*row.figures[span.key].values(), *row.beside.values()) if row.cells else ():
        yield {
            **about, **({"cell": figure.cell.name, "error": figure.cell.error} if figure.cell else {}),
            "column": figure.column.name, "unit": figure.column.unit, "over": figure.column.over,
            **_numbers(figure), "reasons": "; ".join(reason.label for reason in figure.reasons),
        }  # fmt: skip


def _numbers(figure: Figure) -> dict[str, Any]:
    """Return a figure's numbers by field name; None if missing."""
    return {
        "mean": _finite(figure.summary.mean), "n": figure.summary.n,
        "low": _finite(figure.summary.low), "high": _finite(figure.summary.high), "absent": figure.absent,
        "published": _finite(figure.printed.value), "published_absent": figure.printed.absent,
        "difference": _finite(figure.difference),
    }  # fmt: skip


def to_json(sections: Sequence[Section], warnings: Sequence[Sequence[str]]) -> str:
    """Return all figures with configs, reasons and warnings; null if missing."""
    return json.dumps(to_dict(sections, warnings), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(sections: Sequence[Section], warnings: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return the content of :func:`to_json` as plain values; None if missing."""
    content = {"sections": [_section(*each) for each in zip(sections, warnings, strict=True)]}
    plain: dict[str, Any] = _without_nan(content)
    return plain


def _section(section: Section, warnings: Sequence[str]) -> dict[str, Any]:
    about = {
        "title": section.title, "note": section.note, "facts": section.facts, **section.fields,
        "warnings": list(warnings), "missing": section.missing, **section.record,
        **{kind: [] for kind in section.kinds},
    }  # fmt: skip
    for table in section.tables:
        rows = [_row(table, row) for row in table.rows if row.cells]
        if table.several:
            about[table.kind].append({**table.record, "rows": rows})
        else:
            about[table.kind] += rows
    return about


def _row(table: Table, row: Row) -> dict[str, Any]:
    if not table.parts:
        figures = [row.figures[""][column.name] for column in table.columns]
        return {**row.record, "columns": _columns((*figures, *row.beside.values()), table)}
    parts = [
        {**row.records[key], "columns": _columns(row.figures[key].values(), table)} for key in row.records
    ]
    return {**row.record, table.parts: parts}


def _columns(figures: Iterable[Figure], table: Table) -> dict[str, Any]:
    return {
        figure.column.name: _numbers(figure)
        | ({} if table.several else {"reasons": [reason.text for reason in figure.reasons]})
        for figure in figures
    }


def cell_record(cell: Cell, *, times: bool, kept: Sequence[str]) -> dict[str, Any]:
    """Return the JSON record of a cell.

    Args:
        cell: the cell.
        times: whether to include its whole environment.
        kept: names of entries to include without times.
    """
    known: Mapping[str, Any] = cell.environment
    environment = known if times else {name: known[name] for name in kept if name in known}
    return {"cell": cell.name, "error": cell.error, "config": cell.config, "environment": environment}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _without_nan(value: Any) -> Any:
    """Return nested JSON-ready values, with None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

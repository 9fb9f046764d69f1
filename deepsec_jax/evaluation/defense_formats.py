"""The tables of defenses for the terminal, and as CSV, JSON and LaTeX."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from deepsec_jax.evaluation.defense_table import DefenseRow, DefenseSection
from deepsec_jax.evaluation.formats import (
    counts,
    csv_figure,
    csv_text,
    intervals,
    json_figure,
    json_text,
    latex_group,
    latex_table,
    latex_text,
    means,
    numbers,
    papers,
    terminal_table,
    tex,
    tex_line,
    titled,
)
from deepsec_jax.evaluation.paper_numbers import explanation, figure
from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.evaluation.robust_table import RobustRow, ThreatTable

_HEADINGS = (
    "section", "data", "base", "preset", "table", "cell", "defense", "category", "eps", "seed", "column",
    "unit", "over", "mean", "n", "low", "high", "absent", "published", "published_absent", "difference",
    "reasons", "flags", "error",
)  # fmt: skip


def terminal_tables(section: DefenseSection) -> list[Table]:
    """Return the table in the shape of Table IV and those under attack, each about 80 columns wide."""
    utility = _table(
        f"{section.title}: utility", section.note, ("defense", *(c.title for c in section.columns))
    )
    for row in section.rows:
        entries = [row.entries[column.name] for column in section.columns]
        _add(utility, row.name, entries, failed=row.cell is not None and row.cell.error is not None)
        if theirs := papers(entries):
            utility.add_row("  paper", *theirs, style="dim")
    tables = [utility] if any(row.cell is not None for row in section.rows) else []
    for threat in section.threats:
        title = f"{section.about}: accuracy under attack, {threat.title}"
        under = _table(title, "", ("model", *(column.title for column in threat.columns)))
        for model in threat.rows:
            entries = [model.entries[column.name] for column in threat.columns]
            _add(under, model.name, entries, failed=all(cell.error for cell in model.cells.values()))
            if model.rejected:
                under.add_row("  rejected", *rejections(model, threat), style="dim")
            for label in flag_labels(model):
                under.add_row(f"  {label}", style="bold")
        tables.append(under)
    return tables


def rejections(row: RobustRow, threat: ThreatTable) -> list[str]:
    """Return how many images the model rejected in each column of the table; n/a where there is no figure."""
    found = [row.rejected.get(column.name) for column in threat.columns]
    return ["n/a" if entry is None else figure(entry.column, entry.summary.mean) for entry in found]


def flag_labels(row: RobustRow) -> list[str]:
    """Return what is out of order in a row, each finding once."""
    return list(dict.fromkeys(flag.label for flag in row.flags))


def _table(title: str, note: str, headings: Sequence[str]) -> Table:
    table = terminal_table(title, note)
    table.add_column(headings[0], min_width=8, max_width=26)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=heading != "CAV")  # "-1.2 to 0.3" takes two lines
    return table


def _add(table: Table, name: str, entries: Sequence[Entry], *, failed: bool) -> None:
    if failed:
        table.add_row(name, *("failed" for _ in entries))
        return
    table.add_row(name, *means(entries))
    table.add_row("  95 %", *intervals(entries), style="dim")
    table.add_row("  n", *counts(entries), style="dim")


def explanations(section: DefenseSection) -> list[str]:
    """Return why an accuracy is not the printed one, a line for each defense; none where it is."""
    found = (explanation(f"{row.name}: accuracy", row.entries["accuracy"]) for row in section.rows)
    return [line for line in found if line]


def to_csv(sections: Sequence[DefenseSection]) -> str:
    """Return one line per defense and column, of both tables; empty fields where there is no number."""
    return csv_text(_HEADINGS, (line for section in sections for line in _lines(section)))


def _lines(section: DefenseSection) -> Iterator[dict[str, Any]]:
    about = {
        "section": section.title,
        "data": section.dataset,
        "base": section.base,
        "preset": section.preset,
    }
    for row in section.rows:
        for entry in row.entries.values() if row.cell is not None else ():
            assert row.cell is not None
            yield {
                **about, "table": "utility", "cell": row.cell.name, "defense": row.name,
                "category": row.category, **csv_figure(entry), "error": row.cell.error,
            }  # fmt: skip
    for threat in section.threats:
        for model in threat.rows:
            for name, entry in (*model.entries.items(), *model.rejected.items()):
                cell = _cell_of(model, name)
                yield {
                    **about, "table": "robustness", "cell": cell and cell.name, "defense": model.name,
                    "eps": threat.eps, "seed": threat.seed, **csv_figure(entry),
                    "flags": "; ".join(flag_labels(model)), "error": cell and cell.error,
                }  # fmt: skip


def _cell_of(row: RobustRow, column: str) -> Any:
    """Return the cell that a column under attack is read from; None for one over several."""
    access = "undefended" if not row.key and column == "white_box" else column
    return row.cells.get(access)


def to_json(
    sections: Sequence[DefenseSection], warnings: Sequence[Sequence[str]], *, times: bool = True
) -> str:
    """Return all figures with configs, reasons, flags and warnings; null where there is no number."""
    return json_text([
        {
            "title": section.title, "note": section.note, "facts": section.facts, "data": section.dataset,
            "base": section.base, "preset": section.preset, "warnings": list(said),
            "missing": section.missing,
            "utility": [_utility(row, times) for row in section.rows if row.cell is not None],
            "robustness": [_threat(threat, times) for threat in section.threats],
        }
        for section, said in zip(sections, warnings, strict=True)
    ])  # fmt: skip


def _utility(row: DefenseRow, times: bool) -> dict[str, Any]:
    assert row.cell is not None
    return {
        "defense": row.name, "label": row.label, "category": row.category, "changed": list(row.changed),
        **_cell(row.cell, times),
        "columns": {name: json_figure(entry) for name, entry in row.entries.items()},
    }  # fmt: skip


def _threat(threat: ThreatTable, times: bool) -> dict[str, Any]:
    return {
        "title": threat.title, "facts": threat.facts, "eps": threat.eps, "seed": threat.seed,
        "rows": [
            {
                "defense": row.name, "label": row.label, "n": row.n,
                "flags": [{"label": flag.label, "text": flag.text} for flag in row.flags],
                "cells": {access: _cell(cell, times) for access, cell in row.cells.items()},
                "columns": {
                    entry.column.name: numbers(entry)
                    for entry in (*row.entries.values(), *row.rejected.values())
                },
            }
            for row in threat.rows
        ],
    }  # fmt: skip


def _cell(cell: Any, times: bool) -> dict[str, Any]:
    known = cell.environment
    environment = known if times else {name: known[name] for name in ("folder", "training") if name in known}
    return {"cell": cell.name, "error": cell.error, "config": cell.config, "environment": environment}


def to_latex(sections: Sequence[DefenseSection]) -> str:
    r"""Return booktabs tables, for ``\input``; needs the packages booktabs and graphicx."""
    tables = [_utility_tex(section) for section in sections]
    tables += [_threat_tex(section, threat) for section in sections for threat in section.threats]
    return latex_text(tables)


def _utility_tex(section: DefenseSection) -> str:
    lines = [tex_line("Defense", "", *(column.title for column in section.columns))]
    category = None
    for row in section.rows:
        if row.category != category:
            category = row.category
            lines += latex_group(category or "Others", 2 + len(section.columns))
        entries = [row.entries[column.name] for column in section.columns]
        lines += _rows(row.label, entries)
        if theirs := papers(entries):
            lines.append(tex_line("", "paper", *theirs))
    caption = tex(
        f"{titled(section.title, section.note)}. Per defense: our mean, its 95 % interval, its n, and the "
        "number printed in the paper."
    )
    failed = [f"{row.name}: {row.cell.error}" for row in section.rows if row.cell and row.cell.error]
    return latex_table(caption, len(section.columns), lines, failed)


def _threat_tex(section: DefenseSection, threat: ThreatTable) -> str:
    lines = [tex_line("Model", "", *(column.title for column in threat.columns)), r"\midrule"]
    for row in threat.rows:
        lines += _rows(row.label, [row.entries[column.name] for column in threat.columns])
        if row.rejected:
            lines.append(tex_line("", "rejected", *rejections(row, threat)))
    said = [f"{label}: {text}" for label, text in threat.facts.items()]
    said += [f"{row.name}: {label}" for row in threat.rows for label in flag_labels(row)]
    failed = [
        f"{row.name}, {access}: {cell.error}"
        for row in threat.rows
        for access, cell in row.cells.items()
        if cell.error is not None
    ]
    caption = tex(
        f"{section.about}: accuracy under attack, {threat.title}. Per model: mean, its 95 % interval, its n."
    )
    return latex_table(caption, len(threat.columns), lines, [*said, *failed])


def _rows(label: str, entries: Sequence[Entry]) -> list[str]:
    return [
        tex_line(label, "ours", *means(entries)),
        tex_line("", "95 %", *intervals(entries)),
        tex_line("", "n", *counts(entries)),
    ]

"""The report of an evaluation of defenses: terminal, CSV, JSON, LaTeX and one self-contained HTML page.

It reads the folders of a run and computes nothing on a model.  The same folders give the same bytes; with
``times=False`` so do two runs that differ in their clocks only.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from deepsec_jax.evaluation import defense_formats, defense_published
from deepsec_jax.evaluation.attack_details import compared
from deepsec_jax.evaluation.defense_details import defense_details, sights
from deepsec_jax.evaluation.defense_table import DefenseSection, defense_sections
from deepsec_jax.evaluation.defense_warnings import defense_warnings, sound
from deepsec_jax.evaluation.formats import print_section
from deepsec_jax.evaluation.page import named, page, reasons_in
from deepsec_jax.evaluation.robust_table import ThreatTable
from deepsec_jax.runs.cells import Cell


def render_defenses(cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text of defenses.html, defenses.csv, defenses.json and defenses.tex.

    Args:
        cells: finished and failed ones, of any kind.
        times: whether to keep what depends on the clock and the machine's load.
    """
    parts = defense_sections(cells, times=times)
    said = [defense_warnings(section) for section in parts]
    views = [_view(section, said[index], f"d{index}") for index, section in enumerate(parts)]
    return {
        "defenses.html": page("defenses.html", sections=named(views), times=times),
        "defenses.csv": defense_formats.to_csv(parts),
        "defenses.json": defense_formats.to_json(parts, said, times=times),
        "defenses.tex": defense_formats.to_latex(parts),
    }


def print_defenses(cells: Sequence[Cell], console: Console, *, times: bool = True) -> None:
    """Print the tables and the warnings; arguments as of :func:`render_defenses`."""
    for section in defense_sections(cells, times=times):
        tables, lines = defense_formats.terminal_tables(section), defense_formats.explanations(section)
        print_section(console, tables, lines, defense_warnings(section))


def _view(section: DefenseSection, said: Sequence[str], anchor: str) -> dict[str, Any]:
    """Return what the template shows of a section."""
    anchors = {row.key: f"{anchor}-a{index}" for index, row in enumerate(section.rows)}
    reasons = reasons_in((entry for row in section.rows for entry in row.entries.values()), anchor)
    return {
        "anchor": anchor,
        "section": section,
        "warnings": said,
        "sound": sound(section),
        "groups": _groups(section, anchors),
        "threats": [_threat(threat, anchors) for threat in section.threats],
        "sights": sights(section, anchors),
        "details": [defense_details(row, section, anchors[row.key]) for row in section.rows],
        "reasons": reasons,
        "columns": [(column, defense_published.note(column.name)) for column in section.columns]
        + [(column, "") for column in (section.threats[0].columns if section.threats else ())],
        "compares": bool(reasons),
    }


def _groups(section: DefenseSection, anchors: dict[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the utility table under the paper's categories."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in section.rows:
        entries = [_figures(row.entries[column.name]) for column in section.columns]
        line = {"row": row, "anchor": anchors[row.key], "entries": entries}
        found.setdefault(row.category or "Others", []).append(line)
    return [{"category": category, "rows": rows} for category, rows in found.items()]


def _threat(threat: ThreatTable, anchors: dict[str, str]) -> dict[str, Any]:
    return {
        "threat": threat,
        "rejects": any(row.rejected for row in threat.rows),
        "rows": [
            {
                "row": row, "anchor": anchors.get(row.key), "flags": defense_formats.flag_labels(row),
                "entries": [_figures(row.entries[column.name]) for column in threat.columns],
                "rejected": defense_formats.rejections(row, threat) if row.rejected else (),
            }
            for row in threat.rows
        ],
    }  # fmt: skip


def _figures(entry: Any) -> dict[str, Any]:
    """Return one figure for a table: n stands under each."""
    figures = compared(entry)
    return figures | {"interval": figures["interval"].removeprefix("n/a, "), "other_n": figures["n"]}

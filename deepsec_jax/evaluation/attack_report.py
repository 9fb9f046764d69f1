"""The report of an attack evaluation: terminal, CSV, JSON, LaTeX and one self-contained HTML page.

It reads the folders of a run and computes nothing on a model.  The same folders give the same bytes; with
``times=False`` so do two runs that differ in their clocks only.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from deepsec_jax.evaluation import published, table_formats
from deepsec_jax.evaluation.attack_details import compared, details, overview
from deepsec_jax.evaluation.attack_warnings import warnings
from deepsec_jax.evaluation.formats import print_section
from deepsec_jax.evaluation.page import named, page, reasons_in
from deepsec_jax.evaluation.paper_numbers import families, short
from deepsec_jax.evaluation.paper_table import Section, TableRow, groups, sections
from deepsec_jax.runs.cells import Cell


def render(cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text of the four files.

    Args:
        cells: finished and failed ones, of attacks.
        times: whether to keep what depends on the clock and the machine's load; without it two runs of the
            same plan have the same bytes.
    """
    parts = sections(cells, times=times)
    said = [warnings(section) for section in parts]
    return {
        "attacks.html": _page(parts, said, times),
        "attacks.csv": table_formats.to_csv(parts),
        "attacks.json": table_formats.to_json(parts, said, times=times),
        "attacks.tex": table_formats.to_latex(parts),
    }


def print_report(cells: Sequence[Cell], console: Console, *, times: bool = True) -> None:
    """Print the tables and the warnings.

    Args:
        cells: finished and failed ones.
        console: where to.
        times: see :func:`render`.
    """
    for section in sections(cells, times=times):
        tables, lines = table_formats.terminal_tables(section), table_formats.explanations(section)
        print_section(console, tables, lines, warnings(section))


def _page(parts: Sequence[Section], said: Sequence[Sequence[str]], times: bool) -> str:
    views = [_view(section, said[index], f"s{index}") for index, section in enumerate(parts)]
    return page("attacks.html", sections=named(views), times=times)


def _view(section: Section, said: Sequence[str], anchor: str) -> dict[str, Any]:
    """Return what the template shows of a section."""
    anchors = {id(row): f"{anchor}-a{index}" for index, row in enumerate(section.rows)}
    shown = (*section.columns, *section.further)
    reasons = reasons_in((row.entries[column.name] for row in section.rows for column in shown), anchor)
    return {
        "anchor": anchor,
        "section": section,
        "warnings": said,
        "families": families(section.columns),
        "groups": [
            {"goal": goal, "objective": objective,
             "rows": [_line(row, section, anchors[id(row)]) for row in rows]}
            for (goal, objective), rows in groups(section.rows).items()
        ],
        "overview": overview(section.rows, anchor),
        "details": [details(row, section, anchors[id(row)]) for row in section.rows],
        "reasons": reasons,
        "columns": [(column, published.note(column.name)) for column in shown],
        "compares": bool(reasons),
    }  # fmt: skip


def _line(row: TableRow, section: Section, anchor: str) -> dict[str, Any]:
    entries = [compared(row.entries[column.name]) for column in section.columns]
    for entry in entries:
        usual = row.hits if entry["column"].over == "successful" else row.n
        entry["interval"] = short(entry["interval"]).removeprefix("n/a, ")
        entry["other_n"] = entry["n"] if entry["n"] and entry["n"] != usual else None
    return {"row": row, "anchor": anchor, "entries": entries}

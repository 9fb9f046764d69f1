"""The report of an evaluation of detectors: terminal, CSV, JSON, LaTeX and one self-contained HTML page.

It reads the folders of a run and computes nothing on a model.  The same folders give the same bytes; with
``times=False`` so do two runs that differ in their clocks only.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from deepsec_jax.evaluation import detection_formats, detection_published
from deepsec_jax.evaluation.detection_details import detector_details, figures_of, sweep_charts
from deepsec_jax.evaluation.detection_sweep import SWEPT, SweepRow
from deepsec_jax.evaluation.detection_table import DetectionRow, DetectionSection, detection_sections
from deepsec_jax.evaluation.detection_warnings import detection_warnings, sound
from deepsec_jax.evaluation.formats import print_section
from deepsec_jax.evaluation.page import named, page, reasons_in
from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.runs.cells import Cell


def render_detectors(cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text of detectors.html, detectors.csv, detectors.json and detectors.tex.

    Args:
        cells: finished and failed ones, of any kind.
        times: whether to keep what depends on the clock and the machine's load.
    """
    parts = detection_sections(cells, times=times)
    said = [detection_warnings(section) for section in parts]
    views = [_view(section, said[index], f"w{index}", times) for index, section in enumerate(parts)]
    return {
        "detectors.html": page("detectors.html", sections=named(views), times=times),
        "detectors.csv": detection_formats.to_csv(parts),
        "detectors.json": detection_formats.to_json(parts, said, times=times),
        "detectors.tex": detection_formats.to_latex(parts),
    }


def print_detectors(cells: Sequence[Cell], console: Console, *, times: bool = True) -> None:
    """Print the tables and the warnings; arguments as of :func:`render_detectors`."""
    for section in detection_sections(cells, times=times):
        tables, lines = detection_formats.terminal_tables(section), detection_formats.explanations(section)
        print_section(console, tables, lines, detection_warnings(section))


def _view(section: DetectionSection, said: Sequence[str], anchor: str, times: bool) -> dict[str, Any]:
    """Return what the template shows of a section."""
    rows: list[DetectionRow | SweepRow] = [*section.rows, *section.sweep]
    figures = (entry for row in rows for entries in row.entries.values() for entry in entries.values())
    reasons = reasons_in(figures, anchor)
    anchors = {head.key: f"{anchor}-a{index}" for index, head in enumerate(section.detectors)}
    return {
        "anchor": anchor,
        "section": section,
        "warnings": said,
        "sound": sound(section),
        "heads": [(head, anchors[head.key]) for head in section.detectors],
        "groups": _groups(section),
        "sweep": [_swept(row, section) for row in section.sweep],
        "swept": [DETECTION_METRICS[name] for name in SWEPT],
        "sweep_title": "" if section.note else detection_published.sweep_title(section.dataset),
        "sweep_charts": sweep_charts(section, anchor),
        "details": [
            detector_details(head, section, anchors[head.key], times=times) for head in section.detectors
        ],
        "reasons": reasons,
        "notes": detection_published.notes(section.dataset) if reasons else (),
        "columns": [(column, "") for column in DETECTION_METRICS.values()],
        "compares": bool(reasons),
    }


def _groups(section: DetectionSection) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in section.rows:
        found.setdefault((row.goal, row.objective), []).append(_line(row, section))
    return [{"goal": goal, "objective": norm, "rows": rows} for (goal, norm), rows in found.items()]


def _line(row: DetectionRow, section: DetectionSection) -> dict[str, Any]:
    """Return a row of the table: every column of the first detector, then of the next."""
    examples = detection_published.examples(section.dataset, row.name) if section.preset == "paper" else None
    return {
        "row": row,
        "examples": examples,
        "entries": [
            {**figures_of(row.entries[head.key][column.name]), "head": head}
            for head in section.detectors
            for column in section.columns
        ],
    }


def _swept(row: SweepRow, section: DetectionSection) -> dict[str, Any]:
    return {
        "row": row,
        "entries": [
            {**figures_of(row.entries[head.key][name]), "head": head}
            for head in section.detectors
            for name in SWEPT
        ],
    }

"""The tables of detectors for the terminal, and as CSV, JSON and LaTeX."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from deepsec_jax.evaluation.detection_entries import DetectorHead
from deepsec_jax.evaluation.detection_sweep import SWEPT, SweepRow
from deepsec_jax.evaluation.detection_table import DetectionRow, DetectionSection
from deepsec_jax.evaluation.detection_warnings import limits_of
from deepsec_jax.evaluation.formats import (
    csv_figure,
    csv_text,
    intervals,
    json_figure,
    json_text,
    latex_group,
    latex_spans,
    latex_table,
    latex_text,
    means,
    papers,
    terminal_table,
    tex,
    tex_line,
    titled,
)
from deepsec_jax.evaluation.paper_numbers import explanation
from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.runs.cells import Cell

_HEADINGS = (
    "section", "data", "base", "preset", "table", "cell", "detector", "threshold", "attack", "goal",
    "objective", "eps", "column", "unit", "over", "mean", "n", "low", "high", "absent", "published",
    "published_absent", "difference", "reasons", "error",
)  # fmt: skip


def terminal_tables(section: DetectionSection) -> list[Table]:
    """Return a table per detector in the shape of Tables XVI and VI, and one of the sweep, about 80 wide."""
    tables = []
    for head in section.detectors:
        table = _table(
            f"{section.title}: {head.label}, threshold {head.threshold:.4g}", section.note, "attack"
        )
        table.add_column("n/hits", justify="right", no_wrap=True)
        for column in section.columns:
            table.add_column(column.title, justify="right", no_wrap=True)
        for row in section.rows:
            entries = [row.entries[head.key][column.name] for column in section.columns]
            _add(table, (row.name, f"{row.n}/{row.hits}"), entries, row.cells.get(head.key))
        if section.rows:
            tables.append(table)
    for head in section.detectors if section.sweep else ():
        title = f"{section.title}: FGSM of growing radius against {head.label}"
        table = _table(title, "carried: of each example the best image so far", "images")
        table.add_column("ε", justify="right")
        for name in SWEPT:
            table.add_column(DETECTION_METRICS[name].title, justify="right", no_wrap=True)
        for swept in section.sweep:
            entries = list(swept.entries[head.key].values())
            _add(table, (swept.how, f"{swept.eps:g}"), entries, swept.cells.get(head.key))
        tables.append(table)
    return tables


def _table(title: str, note: str, first: str) -> Table:
    table = terminal_table(title, note)
    table.add_column(first, no_wrap=True)
    return table


def _add(table: Table, about: tuple[str, str], entries: Sequence[Entry], cell: Cell | None) -> None:
    if cell is not None and cell.error is not None:
        table.add_row(*about, *("failed" for _ in entries))
        return
    table.add_row(*about, *means(entries))
    table.add_row("  95 %", "", *intervals(entries), style="dim")
    if theirs := papers(entries):
        table.add_row("  paper", "", *theirs, style="dim")


def explanations(section: DetectionSection) -> list[str]:
    """Return why an AUC is not the printed one, a line for each attack and detector; none where it is."""
    found = (
        explanation(f"{head.label}, {row.name}: AUC", row.entries[head.key]["auc"])
        for head in section.detectors
        for row in section.rows
    )
    return [line for line in found if line]


def to_csv(sections: Sequence[DetectionSection]) -> str:
    """Return a line per detector, attack or radius, and column; empty fields where there is no number."""
    return csv_text(_HEADINGS, (line for section in sections for line in _lines(section)))


def _lines(section: DetectionSection) -> Iterator[dict[str, Any]]:
    shared = {
        "section": section.title, "data": section.dataset, "base": section.base, "preset": section.preset,
    }  # fmt: skip
    for head in section.detectors:
        for row in section.rows:
            about = shared | {
                "table": "attacks", "attack": row.name, "goal": row.goal, "objective": row.objective,
            }  # fmt: skip
            yield from _of(head, row.cells.get(head.key), row.entries[head.key], about)
        for swept in section.sweep:
            about = shared | {"table": f"sweep {swept.how}", "attack": "fgsm", "eps": f"{swept.eps:g}"}
            yield from _of(head, swept.cells.get(head.key), swept.entries[head.key], about)


def _of(
    head: DetectorHead, cell: Cell | None, entries: Mapping[str, Entry], about: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for entry in entries.values():
        yield {
            **about, "cell": cell and cell.name, "detector": head.label, "threshold": head.threshold,
            **csv_figure(entry), "error": cell and cell.error,
        }  # fmt: skip


def to_json(
    sections: Sequence[DetectionSection], warnings: Sequence[Sequence[str]], *, times: bool = True
) -> str:
    """Return all figures with configs, reasons and warnings; null where there is no number."""
    return json_text([
        {
            "title": section.title, "note": section.note, "facts": section.facts, "data": section.dataset,
            "base": section.base, "preset": section.preset, "warnings": list(said),
            "missing": section.missing,
            "detectors": [_head(head, times) for head in section.detectors],
            "attacks": [_row(row, section.detectors, times) for row in section.rows],
            "sweep": [_swept(row, section.detectors, times) for row in section.sweep],
        }
        for section, said in zip(sections, warnings, strict=True)
    ])  # fmt: skip


def _head(head: DetectorHead, times: bool) -> dict[str, Any]:
    limits = limits_of(head)
    return {
        "detector": head.label, "about": head.about, "threshold": head.threshold,
        "changed": list(head.changed), "fpr_limits_99": None if limits is None else list(limits),
        **({} if head.clean is None else _cell(head.clean, times)),
    }  # fmt: skip


def _row(row: DetectionRow, heads: Sequence[DetectorHead], times: bool) -> dict[str, Any]:
    return {
        "attack": row.name, "label": row.label, "goal": row.goal, "objective": row.objective, "n": row.n,
        "hits": row.hits, "detectors": [_figures(head, row, times) for head in heads],
    }  # fmt: skip


def _swept(row: SweepRow, heads: Sequence[DetectorHead], times: bool) -> dict[str, Any]:
    return {
        "images": row.how, "eps": row.eps, "n": row.n,
        "detectors": [_figures(head, row, times) for head in heads],
    }  # fmt: skip


def _figures(head: DetectorHead, row: DetectionRow | SweepRow, times: bool) -> dict[str, Any]:
    cell = row.cells.get(head.key)
    return {
        "detector": head.label, **({} if cell is None else _cell(cell, times)),
        "columns": {name: json_figure(entry) for name, entry in row.entries[head.key].items()},
    }  # fmt: skip


def _cell(cell: Cell, times: bool) -> dict[str, Any]:
    known = cell.environment
    kept = ("folder", "fpr", "validation", "training")
    environment = known if times else {name: known[name] for name in kept if name in known}
    return {"cell": cell.name, "error": cell.error, "config": cell.config, "environment": environment}


def to_latex(sections: Sequence[DetectionSection]) -> str:
    r"""Return booktabs tables, for ``\input``; needs the packages booktabs and graphicx."""
    tables = []
    for section in sections:
        tables += [_attacks_tex(section)] if section.rows else []
        tables += [_sweep_tex(section)] if section.sweep else []
    return latex_text(tables)


def _attacks_tex(section: DetectionSection) -> str:
    names = [column.name for column in section.columns]
    lines = []
    before = None
    for row in section.rows:
        if (row.goal, row.objective) != before:
            before = (row.goal, row.objective)
            lines += latex_group(f"{row.goal}, {row.objective}", 3 + len(names) * len(section.detectors))
        entries = [row.entries[head.key][name] for head in section.detectors for name in names]
        lines += _three(row.label, f"{row.n} / {row.hits}", entries)
    return _latex_table(section, "Per attack", ("Attack", "", "$n$"), names, lines)


def _sweep_tex(section: DetectionSection) -> str:
    lines = [r"\midrule"]
    for row in section.sweep:
        entries = [row.entries[head.key][name] for head in section.detectors for name in SWEPT]
        lines += _three(row.how, f"{row.eps:g}", entries)
    return _latex_table(section, "FGSM at each radius", ("Images", "", r"$\varepsilon$"), SWEPT, lines)


def _latex_table(
    section: DetectionSection, what: str, first: Sequence[str], names: Sequence[str], lines: Sequence[str]
) -> str:
    titles = [tex(DETECTION_METRICS[name].title) for _ in section.detectors for name in names]
    heads = latex_spans((head.label, len(names)) for head in section.detectors)
    heads.append(" & ".join((*first, *titles)) + r" \\")
    caption = (
        rf"{tex(titled(section.title, section.note))}. {what}: ours, its 95\,\% interval, and the number "
        "printed in the paper."
    )
    failed = [f"{cell.name}: {cell.error}" for cell in section.cells if cell.error is not None]
    return latex_table(caption, 1 + len(titles), [*heads, *lines], failed)


def _three(label: str, base: str, entries: Sequence[Entry]) -> list[str]:
    lines = [tex_line(label, "ours", base, *means(entries)), tex_line("", "95 %", "", *intervals(entries))]
    if theirs := papers(entries):
        lines.append(tex_line("", "paper", "", *theirs))
    return lines

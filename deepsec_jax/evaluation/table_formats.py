"""The paper's table for the terminal, and as CSV, JSON and LaTeX."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

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
from deepsec_jax.evaluation.paper_numbers import absences, explanation, families
from deepsec_jax.evaluation.paper_table import Section, TableRow, groups
from deepsec_jax.metrics import Column

_HEADINGS = (
    "section", "data", "preset", "cell", "attack", "goal", "objective", "column", "unit", "over", "mean", "n",
    "low", "high", "absent", "published", "published_absent", "difference", "reasons", "error",
)  # fmt: skip


def terminal_tables(section: Section) -> list[Table]:
    """Return one table per family of columns, each about 80 columns wide.

    Three lines an attack: our mean, its 95 % interval, and what the paper prints.
    """
    tables = []
    for family, columns in families(section.columns):
        table = terminal_table(f"{section.title}: {family}", section.note)
        table.add_column("attack", no_wrap=True)
        table.add_column("n/hits", justify="right", no_wrap=True)
        for column in columns:
            table.add_column(column.title, justify="right")
        for row in section.rows:
            entries = [row.entries[column.name] for column in columns]
            base = "failed" if row.cell.error is not None else _base(row, columns)
            table.add_row(row.name, base, *means(entries))
            if row.cell.error is None:
                table.add_row("  95 %", "", *intervals(entries), style="dim")
            if theirs := papers(entries):
                table.add_row("  paper", "", *theirs, style="dim")
        tables.append(table)
    return tables


def _base(row: TableRow, columns: Sequence[Column]) -> str:
    """Return what the figures of a family are averaged over: all candidates, hits, or both."""
    over = {column.over for column in columns}
    return "/".join(str(row.hits if kind == "successful" else row.n) for kind in sorted(over))


def explanations(section: Section) -> list[str]:
    """Return why a success rate is not the printed one, a line for each attack; none where it is."""
    rows = section.rows if any(column.name == "mr" for column in section.columns) else ()
    return [line for row in rows if (line := explanation(f"{row.name}: MR", row.entries["mr"]))]


def to_csv(sections: Sequence[Section]) -> str:
    """Return one line per attack and column; empty fields where there is no number."""
    return csv_text(_HEADINGS, (line for section in sections for line in _lines(section)))


def _lines(section: Section) -> Iterator[dict[str, Any]]:
    for row in section.rows:
        for entry in row.entries.values():
            if entry.column not in (*section.columns, *section.further):
                continue
            yield {
                "section": section.title, "data": section.dataset, "preset": section.preset,
                "cell": row.cell.name, "attack": row.name, "goal": row.goal, "objective": row.objective,
                **csv_figure(entry), "error": row.cell.error,
            }  # fmt: skip


def to_json(sections: Sequence[Section], warnings: Sequence[Sequence[str]], *, times: bool = True) -> str:
    """Return all figures with their sources, reasons and warnings; null where there is no number."""
    return json_text([
        {
            "title": section.title, "note": section.note, "facts": section.facts, "data": section.dataset,
            "preset": section.preset, "warnings": list(said), "missing": section.missing,
            "rows": [_row(row, section, times) for row in section.rows],
        }
        for section, said in zip(sections, warnings, strict=True)
    ])  # fmt: skip


def _row(row: TableRow, section: Section, times: bool) -> dict[str, Any]:
    return {
        "cell": row.cell.name, "attack": row.name, "label": row.label, "goal": row.goal,
        "objective": row.objective, "n": row.n, "hits": row.hits, "error": row.cell.error,
        "config": row.cell.config, **({"environment": row.cell.environment} if times else {}),
        "columns": {
            column.name: json_figure(row.entries[column.name])
            for column in (*section.columns, *section.further)
        },
    }  # fmt: skip


def to_latex(sections: Sequence[Section]) -> str:
    r"""Return one booktabs table per section, for ``\input``; needs the packages booktabs and graphicx."""
    return latex_text(_latex_table(section) for section in sections)


def _latex_table(section: Section) -> str:
    lines = latex_spans((name, len(columns)) for name, columns in families(section.columns))
    lines.append(" & ".join(("Attack", "", "$n$", *(tex(c.title) for c in section.columns))) + r" \\")
    for (goal, objective), rows in groups(section.rows).items():
        lines += latex_group(f"{goal}, {objective}", 3 + len(section.columns))
        for row in rows:
            entries = [row.entries[column.name] for column in section.columns]
            lines.append(tex_line(row.label, "ours", f"{row.n} / {row.hits}", *means(entries)))
            if row.cell.error is None:
                lines.append(tex_line("", "95 %", "", *intervals(entries)))
            if theirs := papers(entries):
                lines.append(tex_line("", "paper", "", *theirs))
    failed = [f"{row.name}: {row.cell.error}" for row in section.rows if row.cell.error is not None]
    caption = (
        rf"{tex(titled(section.title, section.note))}. Per attack: our mean, its 95\,\% interval, and the "
        "number printed in the paper."
    )
    return latex_table(caption, 1 + len(section.columns), lines, (*failed, *absences(section)))

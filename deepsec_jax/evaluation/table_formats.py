"""The paper's table for the terminal, and as CSV, JSON and LaTeX."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table

from deepsec_jax.evaluation.paper_numbers import (
    absences,
    difference,
    families,
    figure,
    interval,
    published,
    verdict,
)
from deepsec_jax.evaluation.paper_table import Entry, Section, TableRow, groups
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
        table = Table(title=f"{section.title}: {family}", title_justify="left", box=box.SIMPLE_HEAD)
        table.padding, table.caption, table.caption_justify = 0, section.note or None, "left"
        table.add_column("attack", no_wrap=True)
        table.add_column("n/hits", justify="right", no_wrap=True)
        for column in columns:
            table.add_column(column.title, justify="right")
        for row in section.rows:
            entries = [row.entries[column.name] for column in columns]
            base = "failed" if row.cell.error is not None else _base(row, columns)
            table.add_row(row.name, base, *(_mean(entry) for entry in entries))
            if row.cell.error is None:
                table.add_row("  95 %", "", *(interval(e.column, e.summary) for e in entries), style="dim")
            if any(not entry.printed.absent for entry in entries):
                table.add_row("  paper", "", *(published(entry) for entry in entries), style="dim")
        tables.append(table)
    return tables


def _base(row: TableRow, columns: Sequence[Column]) -> str:
    """Return what the figures of a family are averaged over: all candidates, hits, or both."""
    over = {column.over for column in columns}
    return "/".join(str(row.hits if kind == "successful" else row.n) for kind in sorted(over))


def _mean(entry: Entry) -> str:
    return figure(entry.column, entry.summary.mean)


def to_csv(sections: Sequence[Section]) -> str:
    """Return one line per attack and column; empty fields where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _HEADINGS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for section in sections for line in _lines(section))
    return text.getvalue()


def _lines(section: Section) -> Iterator[dict[str, Any]]:
    for row in section.rows:
        for entry in row.entries.values():
            if entry.column not in (*section.columns, *section.further):
                continue
            yield {
                "section": section.title, "data": section.dataset, "preset": section.preset,
                "cell": row.cell.name, "attack": row.name, "goal": row.goal, "objective": row.objective,
                "column": entry.column.name, "unit": entry.column.unit, "over": entry.column.over,
                **{key: "" if value is None else value for key, value in numbers(entry).items()},
                "reasons": "; ".join(reason.label for reason in entry.reasons), "error": row.cell.error or "",
            }  # fmt: skip


def numbers(entry: Entry) -> dict[str, Any]:
    """Return a figure's numbers by the names of files; None where there is none."""
    return {
        "mean": _finite(entry.summary.mean), "n": entry.summary.n,
        "low": _finite(entry.summary.low), "high": _finite(entry.summary.high), "absent": entry.absent,
        "published": _finite(entry.printed.value), "published_absent": entry.printed.absent,
        "difference": _finite(entry.difference),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_json(sections: Sequence[Section], warnings: Sequence[Sequence[str]], *, times: bool = True) -> str:
    """Return all figures with their sources, reasons and warnings; null where there is no number."""
    content = [
        {
            "title": section.title, "note": section.note, "facts": section.facts, "data": section.dataset,
            "preset": section.preset, "warnings": list(said), "missing": section.missing,
            "rows": [_row(row, section, times) for row in section.rows],
        }
        for section, said in zip(sections, warnings, strict=True)
    ]  # fmt: skip
    return json.dumps({"sections": content}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _row(row: TableRow, section: Section, times: bool) -> dict[str, Any]:
    return {
        "cell": row.cell.name, "attack": row.name, "label": row.label, "goal": row.goal,
        "objective": row.objective, "n": row.n, "hits": row.hits, "error": row.cell.error,
        "config": row.cell.config, **({"environment": without_nan(row.cell.environment)} if times else {}),
        "columns": {
            column.name: {
                **numbers(row.entries[column.name]),
                "reasons": [reason.text for reason in row.entries[column.name].reasons],
            }
            for column in (*section.columns, *section.further)
        },
    }  # fmt: skip


def without_nan(value: Any) -> Any:
    """Return JSON-ready values, however deep, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_latex(sections: Sequence[Section]) -> str:
    r"""Return one booktabs table per section, for ``\input``; needs the packages booktabs and graphicx."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(_latex_table(s) for s in sections)


def _latex_table(section: Section) -> str:
    width = 3 + len(section.columns)
    runs = families(section.columns)
    spans = " & ".join(rf"\multicolumn{{{len(columns)}}}{{c}}{{{name}}}" for name, columns in runs)
    caption = ". ".join(filter(None, (section.title, section.note.rstrip("."))))
    lines = [
        r"\begin{table*}", r"\centering", rf"\caption{{{tex(caption)}. Per attack: our mean, its 95\,\% "
        r"interval, and the number printed in the paper.}", r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * (width - 2)}}}", r"\toprule", rf"& & & {spans} \\", _rules(runs),
        " & ".join(("Attack", "", "$n$", *(tex(column.title) for column in section.columns))) + r" \\",
    ]  # fmt: skip
    for (goal, objective), rows in groups(section.rows).items():
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{{goal}, {tex(objective)}}} \\"]
        for row in rows:
            entries = [row.entries[column.name] for column in section.columns]
            lines.append(tex_line(row.label, "ours", f"{row.n} / {row.hits}", [_mean(e) for e in entries]))
            if row.cell.error is None:
                lines.append(tex_line("", "95 %", "", [interval(e.column, e.summary) for e in entries]))
            if any(not entry.printed.absent for entry in entries):
                lines.append(tex_line("", "paper", "", [published(e) for e in entries]))
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\par\footnotesize {tex(text)}" for text in (*_failed(section), *absences(section))]
    lines += [r"\end{table*}", ""]
    return "\n".join(lines)


def _failed(section: Section) -> list[str]:
    return [f"{row.name}: {row.cell.error}" for row in section.rows if row.cell.error is not None]


def _rules(runs: Sequence[tuple[str, Sequence[Column]]]) -> str:
    rules, first = [], 4
    for _, columns in runs:
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(columns) - 1}}}")
        first += len(columns)
    return " ".join(rules)


def tex_line(label: str, kind: str, base: str, figures: Sequence[str]) -> str:
    """Return one line of a LaTeX table."""
    return " & ".join(tex(text) for text in (label, kind, base, *figures)) + r" \\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$", "≥": r"$\ge$",
    "ε": r"$\varepsilon$", "κ": r"$\kappa$", "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$",
}  # fmt: skip


def tex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_TEX.get(character, character) for character in text)


def explanations(row: TableRow, section: Section) -> list[str]:
    """Return why the success rate of an attack is not the printed one, in a line; none where it is."""
    entry = row.entries.get("mr")
    if entry is None or entry.column not in section.columns or not (text := verdict(entry)):
        return []
    ours, theirs = figure(entry.column, entry.summary.mean), published(entry)
    return [f"{row.name}: MR {ours}, {theirs} in the paper ({difference(entry)}): {text}"]

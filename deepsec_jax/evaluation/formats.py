"""What the tables of attacks, defenses and detectors share on the terminal, and as CSV, JSON and LaTeX."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deepsec_jax.evaluation.paper_numbers import figure, interval, published
from deepsec_jax.evaluation.paper_table import Entry


def terminal_table(title: str, note: str) -> Table:
    """Return a table without columns, its note under it."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.caption, table.caption_justify = 0, note or None, "left"
    return table


def print_section(
    console: Console, tables: Iterable[Table], lines: Iterable[str], warnings: Iterable[str]
) -> None:
    """Print the tables of a section, what explains them, and what to know before trusting them."""
    for table in tables:
        console.print(table)
    for line in (*lines, *(f"warning: {warning}" for warning in warnings)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def means(entries: Iterable[Entry]) -> list[str]:
    """Return our means as they are printed."""
    return [figure(entry.column, entry.summary.mean) for entry in entries]


def intervals(entries: Iterable[Entry]) -> list[str]:
    """Return the 95 % intervals as they are printed."""
    return [interval(entry.column, entry.summary) for entry in entries]


def counts(entries: Iterable[Entry]) -> list[str]:
    """Return over how many examples each mean is."""
    return [str(entry.summary.n) for entry in entries]


def papers(entries: Sequence[Entry]) -> list[str]:
    """Return the paper's numbers; none if it has not one of them, so that a row for them is left out."""
    if all(entry.printed.absent for entry in entries):
        return []
    return [published(entry) for entry in entries]


def csv_text(headings: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Return a CSV file; fields that a line lacks, or that are None, are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def csv_figure(entry: Entry) -> dict[str, Any]:
    """Return the fields of a figure in a line of CSV."""
    return {
        "column": entry.column.name, "unit": entry.column.unit, "over": entry.column.over, **numbers(entry),
        "reasons": "; ".join(reason.label for reason in entry.reasons),
    }  # fmt: skip


def json_text(sections: Sequence[Mapping[str, Any]]) -> str:
    """Return a JSON file of sections; null where there is no number."""
    content = without_nan({"sections": sections})
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def json_figure(entry: Entry) -> dict[str, Any]:
    """Return a figure of a JSON file: its numbers, and why they may differ."""
    return {**numbers(entry), "reasons": [reason.text for reason in entry.reasons]}


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


def without_nan(value: Any) -> Any:
    """Return JSON-ready values, however deep, with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def latex_text(tables: Iterable[str]) -> str:
    r"""Return tables as a file for ``\input``."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(tables)


def latex_table(caption: str, columns: int, lines: Iterable[str], notes: Iterable[str]) -> str:
    """Return one booktabs table.

    Args:
        caption: of LaTeX, with its full stop.
        columns: how many stand right of the two for names.
        lines: of LaTeX, between the first and the last rule.
        notes: plain text under the table, a paragraph each.
    """
    return "\n".join([
        r"\begin{table*}", r"\centering", rf"\caption{{{caption}}}", r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}}",
        *(rf"\par\footnotesize {tex(note)}" for note in notes), r"\end{table*}", "",
    ])  # fmt: skip


def titled(title: str, note: str) -> str:
    """Return a section's title and note as the beginning of a caption, without the last full stop."""
    return ". ".join(filter(None, (title, note.rstrip("."))))


def latex_spans(spans: Iterable[tuple[str, int]]) -> list[str]:
    """Return the two lines above the headings: names over so many columns each, from the fourth on."""
    names, rules, first = [], [], 4
    for name, width in spans:
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(name)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [rf"& & & {' & '.join(names)} \\", " ".join(rules)]


def latex_group(name: str, width: int) -> list[str]:
    """Return the two lines above a group of rows."""
    return [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{{tex(name)}}} \\"]


def tex_line(*texts: str) -> str:
    """Return one line of a LaTeX table."""
    return " & ".join(tex(text) for text in texts) + r" \\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$", "≥": r"$\ge$",
    "ε": r"$\varepsilon$", "κ": r"$\kappa$", "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$",
}  # fmt: skip


def tex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_TEX.get(character, character) for character in text)

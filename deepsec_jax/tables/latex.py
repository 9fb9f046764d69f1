r"""Tables as LaTeX, for ``\input``; they need booktabs and graphicx, with struck figures also ulem."""

from collections.abc import Iterable, Sequence

from deepsec_jax.tables import numbers
from deepsec_jax.tables.table import Row, Section, Table


def to_latex(sections: Iterable[Section]) -> str:
    """Return the tables of all sections; kinds with several tables per section come last."""
    every = (table for section in sections for table in section.tables if table.rows)
    tables = sorted(every, key=lambda table: table.several)
    strikes = any(row.struck for table in tables for row in table.rows)
    needed = "booktabs,graphicx" + (",ulem" if strikes else "")
    return f"% needs \\usepackage{{{needed}}}\n" + "\n".join(map(_table, tables))


def _table(table: Table) -> str:
    """Return one booktabs table."""
    columns = [column for span in table.spans for column in span.columns]
    names, width = (3, len(columns) + 1) if table.base else (2, len(columns))
    lines = _spans(table, names + 1) if any(span.label for span in table.spans) else []
    base = (_BASES[table.base],) if table.base else ()
    headings = (table.heading, "", *base, *(tex(column.title) for column in columns))
    lines.append(" & ".join(headings) + r" \\")
    group = None
    for row in table.rows:
        if row.group != group:
            group = row.group
            if not any(group):
                lines.append(r"\midrule")
            else:
                name = tex(", ".join(group))
                lines += [r"\midrule", rf"\multicolumn{{{names + len(columns)}}}{{l}}{{{name}}} \\"]
        lines += _row(table, row)
    title = ". ".join(filter(None, (table.title, table.note.rstrip("."))))
    return "\n".join([
        r"\begin{table*}", r"\centering", rf"\caption{{{tex(f'{title}{table.caption}')}}}",
        r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{ll{'r' * width}}}", r"\toprule", *lines,
        r"\bottomrule", r"\end{tabular}}", *(rf"\par\footnotesize {tex(note)}" for note in table.notes),
        r"\end{table*}", "",
    ])  # fmt: skip


_BASES = {"n/hits": "$n$", "n": "$n$", "ε": r"$\varepsilon$"}
"""Heading of the column for n or for the radius -> LaTeX."""


def _spans(table: Table, first: int) -> list[str]:
    """Return the two lines above the headings; ``first`` is the number of the first column."""
    names, rules = [], []
    for span in table.spans:
        width = len(span.columns)
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(span.label)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [rf"& & & {' & '.join(names)} \\", " ".join(rules)]


def _row(table: Table, row: Row) -> list[str]:
    """Return ours, the 95 % interval, n if each figure has its own, and the paper's."""
    figures = [figure for span in table.spans for figure in row.of(span)]
    empty = ("",) if table.base else ()
    base = (row.base.replace("/", " / "),) if table.base else ()
    means = map(tex, numbers.means(figures))
    struck = [rf"\sout{{{mean}}}" for mean in means] if row.struck else list(means)
    first = " & ".join([*map(tex, (row.label, "ours", *base)), *struck]) + r" \\"
    lines: list[Sequence[str]] = []
    if row.error is None:
        lines.append(("", "95 %", *empty, *numbers.intervals(figures)))
        if not table.base:
            lines.append(("", "n", *numbers.counts(figures)))
    if row.beside:
        columns = [column for span in table.spans for column in span.columns]
        lines.append(("", "rejected", *numbers.beside(row, columns)))
    if theirs := numbers.papers(figures):
        lines.append(("", "paper", *empty, *theirs))
    return [first, *(_line(*line) for line in lines)]


def _line(*texts: str) -> str:
    """Return one line of a table."""
    return " & ".join(map(tex, texts)) + r" \\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$", "≥": r"$\ge$",
    "ε": r"$\varepsilon$", "κ": r"$\kappa$", "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
}  # fmt: skip


def tex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_TEX.get(character, character) for character in text)

"""Tables for the terminal, each about 80 columns wide."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from deepsec_jax.tables import numbers
from deepsec_jax.tables.table import FAILED, Section, Span, Table


def print_section(console: Console, section: Section, warnings: Iterable[str]) -> None:
    """Print the tables of a section, the reasons for differences, and the warnings."""
    for table in section.tables:
        for span in table.spans if any(row.cells for row in table.rows) else ():
            console.print(_table(table, span))
    for line in (*explanations(section), *(f"warning: {warning}" for warning in warnings)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def to_text(sections: Sequence[Section], warnings: Sequence[Iterable[str]], width: int = 200) -> str:
    """Return the tables of sections as plain text, ``width`` characters at most."""
    text = io.StringIO()
    console = Console(file=text, width=width)
    for section, said in zip(sections, warnings, strict=True):
        print_section(console, section, said)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _table(table: Table, span: Span) -> RichTable:
    """Return one span: our means, their 95 % intervals, n where it differs, and the paper's numbers."""
    title = ": ".join(filter(None, (table.title, table.about, f"{span.label}{span.detail}")))
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown.padding, shown.caption, shown.caption_justify = 0, table.note or None, "left"
    intervals = [numbers.intervals(row.of(span)) for row in table.rows]
    shown.add_column(table.heading.lower(), min_width=8, max_width=26)
    if table.base:
        shown.add_column(table.base, justify="right", no_wrap=True)
    for index, column in enumerate(span.columns):
        # "-1.2 to 0.3" takes two lines
        wraps = any(" to " in texts[index] for texts in intervals)
        shown.add_column(column.title, justify="right", no_wrap=not wraps)
    for row, between in zip(table.rows, intervals, strict=True):
        figures = row.of(span)

        def line(name: str, texts: Sequence[str], base: str = "", style: str | None = None) -> None:
            shown.add_row(name, *((base,) if table.base else ()), *texts, style=style)

        means = zip(figures, numbers.means(figures), strict=True)
        texts = [FAILED if each.absent == FAILED else mean for each, mean in means]
        line(row.name, texts, row.base, "strike" if row.struck else None)
        if any(figure.summary.n for figure in figures):
            line("  95 %", between, style="dim")
            if not table.base:
                line("  n", numbers.counts(figures), style="dim")
        if row.beside:
            line("  rejected", numbers.beside(row, span.columns), style="dim")
        if theirs := numbers.papers(figures):
            line("  paper", theirs, style="dim")
        for label in row.labels():
            shown.add_row(f"  {label}", style="bold")
    return shown


def explanations(section: Section) -> list[str]:
    """Return the reasons for differences, a line for each row and span with a difference.

    They are of the first table with the explained column.
    """
    named = (table for table in section.tables if section.explained in (each.name for each in table.columns))
    explained = next(named, None)
    return [
        line
        for key, span in section.spans().items()
        for row in (explained.rows if explained else ())
        if (figure := row.figures.get(key, {}).get(section.explained)) is not None
        and (line := numbers.explanation(
            f"{', '.join(filter(None, (span.label if key else '', row.name)))}: {figure.column.title}", figure
        ))
    ]  # fmt: skip

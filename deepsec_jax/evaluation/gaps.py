"""What tables lack, in words: cells that failed, and figures that are n/a."""

from collections.abc import Iterable

from deepsec_jax.evaluation.cells import Cell, short_name
from deepsec_jax.evaluation.paper_table import Entry


def failures(cells: Iterable[Cell]) -> list[str]:
    """Return one sentence per cell that failed."""
    return [
        f"{short_name(cell.config)}: the cell failed, so the tables lack its figures: {cell.error}"
        for cell in cells
        if cell.error is not None
    ]


def lacking(rows: Iterable[tuple[str, Iterable[Entry]]]) -> dict[tuple[str, str], list[str]]:
    """Return (reason, titles of columns) -> names of the rows whose figures are n/a for that reason.

    Args:
        rows: each row's name and figures.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for name, entries in rows:
        by_reason: dict[str, list[str]] = {}
        for entry in entries:
            if entry.absent:
                by_reason.setdefault(entry.absent, []).append(entry.column.title)
        for reason, titles in by_reason.items():
            found.setdefault((reason, ", ".join(titles)), []).append(name)
    return found

"""What tables lack, in words: cells that failed, figures that are n/a, and faults of the model itself."""

from collections.abc import Callable, Iterable

from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.runs.cells import Cell, short_name


def failures(cells: Iterable[Cell]) -> list[str]:
    """Return one sentence per cell that failed."""
    return [
        f"{short_name(cell.config)}: the cell failed, so the tables lack its figures: {cell.error}"
        for cell in cells
        if cell.error is not None
    ]


def findings_of(cells: Iterable[Cell], who: Callable[[Cell], str]) -> list[str]:
    """Return what was found wrong with the models of cells before their first attack, each said once.

    Args:
        cells: of any kind.
        who: what a cell's model is called.
    """
    return list(
        dict.fromkeys(
            f"{who(cell)}: {finding}" for cell in cells for finding in cell.environment.get("findings", ())
        )
    )


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

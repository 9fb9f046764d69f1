"""The report of a run directory: the attacks' files where it holds attacks, the defenses' where defenses."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deepsec_jax.evaluation.aside import write_aside
from deepsec_jax.evaluation.attack_report import print_report, render
from deepsec_jax.evaluation.cells import ATTACK, Cell
from deepsec_jax.evaluation.defense_report import print_defenses, render_defenses
from deepsec_jax.evaluation.store import read_cells


def write_run_report(
    run_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str], *, times: bool = True
) -> list[Path]:
    """Write attacks.* and defenses.*, each as html, csv, json and tex, over those of an earlier report.

    Args:
        run_dir: a run directory; see :mod:`deepsec_jax.evaluation.cells`.
        out_dir: folder of the files.
        times: whether to keep what depends on the clock and the machine's load; without it two runs of the
            same plan have the same bytes.

    Returns:
        The paths, each page before its tables.

    Raises:
        StoreError: ``run_dir`` is no run directory or damaged, or ``out_dir`` cannot be written.
    """
    paths = []
    for name, text in render_run(read_cells(run_dir), times=times).items():
        path = Path(out_dir) / name
        write_aside(path, _writer(text), replace=True)
        paths.append(path)
    return paths


def _writer(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text, encoding="utf-8")


def render_run(cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text; a run without any cell has the page of attacks, which says so."""
    attacks, others = parted(cells)
    files = render(attacks, times=times) if attacks or not others else {}
    return files | (render_defenses(others, times=times) if others else {})


def print_run(cells: Sequence[Cell], console: Console, *, times: bool = True) -> None:
    """Print the tables and the warnings of all cells."""
    attacks, others = parted(cells)
    print_report(attacks, console, times=times)
    print_defenses(others, console, times=times)


def parted(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of attacks and those of defenses."""
    attacks = [cell for cell in cells if cell.kind == ATTACK]
    return attacks, [cell for cell in cells if cell.kind != ATTACK]

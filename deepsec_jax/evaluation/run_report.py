"""The report of a run directory: files of attacks, of defenses and of detectors, of what it holds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deepsec_jax.evaluation.attack_report import print_report, render
from deepsec_jax.evaluation.defense_report import print_defenses, render_defenses
from deepsec_jax.evaluation.detection_report import print_detectors, render_detectors
from deepsec_jax.runs.atomic import write_atomic
from deepsec_jax.runs.cells import ATTACK, CLEAN, DETECTION, SWEEP, Cell
from deepsec_jax.runs.store import read_cells


def write_run_report(
    run_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str], *, times: bool = True
) -> list[Path]:
    """Write attacks.*, defenses.* and detectors.*, each as html, csv, json and tex, over earlier ones.

    Args:
        run_dir: a run directory; see :mod:`deepsec_jax.runs.cells`.
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
        write_atomic(path, _writer(text), replace=True)
        paths.append(path)
    return paths


def _writer(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text, encoding="utf-8")


def render_run(cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text; a run without any cell has the page of attacks, which says so."""
    attacks, defenses, detectors = parted(cells)
    files = render(attacks, times=times) if attacks or not (defenses or detectors) else {}
    files |= render_defenses(defenses, times=times) if defenses else {}
    return files | (render_detectors(detectors, times=times) if detectors else {})


def print_run(cells: Sequence[Cell], console: Console, *, times: bool = True) -> None:
    """Print the tables and the warnings of all cells."""
    attacks, defenses, detectors = parted(cells)
    print_report(attacks, console, times=times)
    print_defenses(defenses, console, times=times)
    print_detectors(detectors, console, times=times)


def parted(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """Return the cells of attacks, those of defenses and those of detectors."""
    scored = (CLEAN, DETECTION, SWEEP)
    attacks = [cell for cell in cells if cell.kind == ATTACK]
    defenses = [cell for cell in cells if cell.kind not in (ATTACK, *scored)]
    return attacks, defenses, [cell for cell in cells if cell.kind in scored]

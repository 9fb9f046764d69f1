"""The report of a run directory: every study's tables in every format.  It reads cells and runs no model.

The same folders give the same bytes; with ``times=False`` so do two runs of the same plan.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deepsec_jax.runs.atomic import write_atomic
from deepsec_jax.runs.cells import Cell
from deepsec_jax.runs.store import read_cells
from deepsec_jax.studies.attacks.tables import ATTACKS
from deepsec_jax.studies.column_versions import column_versions
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.table import STUDIES
from deepsec_jax.tables import checks, data_files, latex, terminal
from deepsec_jax.tables.page import View, page


def write_run_report(
    run_dir: str | os.PathLike[str], out_dir: str | os.PathLike[str], *, times: bool = True
) -> list[Path]:
    """Write the files of every study that has cells, as html, csv, json and tex, over earlier ones.

    Args:
        run_dir: a run directory; see :mod:`deepsec_jax.runs.cells`.
        out_dir: folder of the files.
        times: whether to keep values that depend on the clock and the machine's load; without them two runs
            of the same plan have the same bytes.

    Returns:
        The paths, each page before its tables.

    Raises:
        StoreError: ``run_dir`` is not a run directory or damaged, or ``out_dir`` cannot be written.
    """
    return write_texts(render_run(read_cells(run_dir, column_versions()), times=times), out_dir)


def write_texts(texts: Mapping[str, str], out_dir: str | os.PathLike[str]) -> list[Path]:
    """Write file name -> text into a folder, over earlier files, and return the paths."""
    paths = []
    for name, text in texts.items():
        path = Path(out_dir) / name
        write_atomic(path, _writer(text), replace=True)
        paths.append(path)
    return paths


def _writer(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text, encoding="utf-8")


def render_run(cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text; a run without cells has an empty page of the first study."""
    studies = [study for study in STUDIES.values() if study.of(cells)] or [ATTACKS]
    return {name: text for study in studies for name, text in render(study, cells, times=times).items()}


def render(study: Study, cells: Sequence[Cell], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text of a study's four files.

    Args:
        study: of the tables.
        cells: finished and failed ones, of any kind.
        times: see :func:`write_run_report`.
    """
    return files(study, views_of(study, cells, times=times), times=times)


def views_of(study: Study, cells: Sequence[Cell], *, times: bool = True) -> list[tuple[str, View]]:
    """Return id and view of each section of a study's page; arguments as of :func:`render`."""
    views = []
    for index, section in enumerate(study.sections(study.of(cells), times=times)):
        anchor = f"s{index}"
        said, sound = checks.warnings(section, study.checks), checks.sound(section, study.checks)
        blocks, details = study.overview(section, anchor), study.details(section, anchor, times)
        views.append((anchor, View(section, said, sound, blocks, details)))
    return views


def files(study: Study, views: Sequence[tuple[str, View]], *, times: bool = True) -> dict[str, str]:
    """Return file name -> text of the page and the tables of these views."""
    sections = [view.section for _, view in views]
    return {
        f"{study.name}.html": page(
            study.title, views, file=study.name, heading=study.heading, intro=study.intro,
            better=study.better, paper=study.paper, times=times,
        ),
        f"{study.name}.csv": data_files.to_csv(sections, study.fields, study.fields_after),
        f"{study.name}.json": data_files.to_json(sections, [view.warnings for _, view in views]),
        f"{study.name}.tex": latex.to_latex(sections),
    }  # fmt: skip


def print_run(cells: Sequence[Cell], console: Console, *, times: bool = True) -> None:
    """Print the tables and the warnings of all cells; ``times`` as in :func:`write_run_report`."""
    for study in STUDIES.values():
        for section in study.sections(study.of(cells), times=times):
            terminal.print_section(console, section, checks.warnings(section, study.checks))

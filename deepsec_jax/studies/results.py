"""The tables of a study in memory: as text, dicts, CSV, JSON, LaTeX, HTML, or in a notebook."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deepsec_jax.metrics import METRICS, Summary, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.runs.store import read_cells
from deepsec_jax.studies.column_versions import column_versions
from deepsec_jax.studies.report import render
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.table import STUDIES
from deepsec_jax.tables import checks, data_files, latex, notebook, terminal
from deepsec_jax.tables.table import Figure, Row, Section, Table


@dataclass(frozen=True, repr=False)
class Results:
    """Tables of one study, and their cells.

    A notebook shows the tables; ``print(results)`` prints those of the terminal.

    Attributes:
        study: of the tables.
        cells: the results: each has ``config``, ``environment``, ``arrays`` (``x_adv``, ``success``, ...) and
            ``columns`` (one value per image).
        times: whether to keep what depends on the clock and the machine's load.
    """

    study: Study
    cells: tuple[Cell, ...]
    times: bool = True

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """One section for each model and set of images."""
        return tuple(self.study.sections(self.cells, times=self.times))

    @cached_property
    def warnings(self) -> tuple[tuple[str, ...], ...]:
        """Warnings about the tables of each section, one sentence each."""
        return tuple(tuple(checks.warnings(section, self.study.checks)) for section in self.sections)

    def figure(self, row: str, column: str, key: str = "") -> Figure:
        """Return one figure: ``results.figure("pgd", "mr").summary.mean``.

        Args:
            row: name of the row, such as ``pgd``.
            column: name of the column, such as ``mr``.
            key: of the span, if rows have several: an attacker, or a detector.

        Raises:
            KeyError: there is none, or there are several; the error lists what exists.
        """
        found = [each.figures[key][column] for each in self._rows(row) if column in each.figures.get(key, {})]
        if len(found) != 1:
            names = {
                name: None for each in self._rows(row) for part in each.figures.values() for name in part
            }
            raise KeyError(f"{len(found)} figures {column!r} of {row!r}; its columns: {', '.join(names)}")
        return found[0]

    def cell(self, row: str, key: str = "") -> Cell:
        """Return the cell of a row: ``results.cell("pgd").arrays["x_adv"]``.

        Args:
            row: name of the row.
            key: of the span, if rows have several.

        Raises:
            KeyError: there is none, or there are several; the error lists what exists.
        """
        found = [each.cells[key] for each in self._rows(row) if key in each.cells]
        if len(found) != 1:
            raise KeyError(f"{len(found)} cells of {row!r} under {key!r}: see .cells")
        return found[0]

    def worst_case(self, rows: Sequence[str] | None = None) -> Summary:
        """Return the share of images on which at least one of the attacks succeeds: 1 - robust accuracy.

        An image counts once, however many attacks succeed on it.  Name attacks of one threat model: a
        minimum-norm attack without a budget succeeds on almost every image.

        Args:
            rows: names of attacks; default all.

        Raises:
            KeyError: no such row.
            ValueError: an attack failed, or the attacks had different images.
        """
        names = [row.name for table in self._tables() for row in table.rows] if rows is None else rows
        cells = [self.cell(name) for name in names]
        failed = [name for name, cell in zip(names, cells, strict=True) if "success" not in cell.arrays]
        if failed or not cells:
            raise ValueError(f"no success is known of {', '.join(failed) or 'any attack'}")
        if any(not np.array_equal(cell.arrays["rows"], cells[0].arrays["rows"]) for cell in cells):
            raise ValueError("the attacks had different images: see .sections")
        worst = np.max([cell.arrays["success"] for cell in cells], axis=0)
        return summarise(METRICS["mr"], worst, worst)

    def _tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]

    def _rows(self, name: str) -> list[Row]:
        every = [row for table in self._tables() for row in table.rows]
        found = [row for row in every if row.name == name]
        if not found:
            raise KeyError(
                f"no row {name!r}; there are: {', '.join(dict.fromkeys(row.name for row in every))}"
            )
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dict per figure, like the lines of the CSV, e.g. for ``pandas.DataFrame``."""
        return data_files.lines(self.sections)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON's content as plain values; None for missing numbers."""
        return data_files.to_dict(self.sections, self.warnings)

    def to_json(self) -> str:
        """Return all figures with configs, reasons and warnings, like the JSON file of the report."""
        return data_files.to_json(self.sections, self.warnings)

    def to_csv(self) -> str:
        """Return one line per figure, like the CSV file of the report."""
        return data_files.to_csv(self.sections, self.study.fields, self.study.fields_after)

    def to_latex(self) -> str:
        """Return the LaTeX tables, which need booktabs and graphicx."""
        return latex.to_latex(self.sections)

    def to_html(self) -> str:
        """Return the whole page of the report, with pictures and details; it loads nothing."""
        return render(self.study, self.cells, times=self.times)[f"{self.study.name}.html"]

    def _repr_html_(self) -> str:
        return notebook.to_html(self.sections, self.warnings)

    def __str__(self) -> str:
        return terminal.to_text(self.sections, self.warnings)

    def __repr__(self) -> str:
        return f"<Results of {self.study.name}, {len(self.cells)} cells: print it, or .rows(), .to_html()>"


def read(run_dir: str | os.PathLike[str], *, times: bool = True) -> dict[str, Results]:
    """Return study name -> results of a run directory of ``deepsec evaluate``.

        results = evaluation.read("runs/evaluate/digits-small-digits")["attacks"]

    Args:
        run_dir: the run directory.
        times: whether to keep what depends on the clock and the machine's load.

    Raises:
        StoreError: not a run directory, or a damaged one.
    """
    return results_of(read_cells(run_dir, column_versions()), times=times)


def results_of(cells: Sequence[Cell], *, times: bool = True) -> dict[str, Results]:
    """Return study name -> results of the studies that have cells."""
    found = {study.name: Results(study, tuple(study.of(cells)), times) for study in STUDIES.values()}
    return {name: results for name, results in found.items() if results.cells}

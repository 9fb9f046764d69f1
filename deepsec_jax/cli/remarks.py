"""``deepsec remarks``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Remarks:
    """Test the paper's eight remarks and the review's findings on measured cells. Runs no model.

    Attributes:
        run_dirs: Folders that deepsec evaluate has written; their cells are read together.
        out: Folder for the files; default RUN_DIR/report of the first one.
        times: Include values that depend on the clock.
    """

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    out: Path | None = None
    times: bool = True

    def run(self) -> None:
        """Print the verdicts, write the files, and print their paths."""
        from rich.console import Console

        from deepsec_jax.cli import InputError
        from deepsec_jax.runs.store import read_cells
        from deepsec_jax.studies.column_versions import column_versions
        from deepsec_jax.studies.remarks.tables import REMARKS
        from deepsec_jax.studies.report import render, write_texts
        from deepsec_jax.tables import terminal

        if not self.run_dirs:
            raise InputError("give at least one folder that deepsec evaluate has written")
        versions = column_versions()
        cells = [cell for folder in self.run_dirs for cell in read_cells(folder, versions)]
        for section in REMARKS.sections(cells, times=self.times):
            terminal.print_section(Console(), section, [])
        out = self.out or self.run_dirs[0] / "report"
        for path in write_texts(render(REMARKS, cells, times=self.times), out):
            print(f"report {path}")

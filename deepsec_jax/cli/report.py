"""``deepsec report``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Write the tables and pages of a run directory: terminal, CSV, JSON, LaTeX, HTML. Runs no model.

    Attributes:
        run_dir: Folder that deepsec evaluate attacks, defenses or detectors has written.
        out: Folder for the files; default RUN_DIR/report.
        times: Include values that depend on the clock; without them, runs of one plan give the same bytes.
    """

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    out: Path | None = None
    times: bool = True

    def run(self) -> None:
        """Print the tables, write the files, and print their paths."""
        from rich.console import Console

        from deepsec_jax.runs.store import read_cells
        from deepsec_jax.studies.column_versions import column_versions
        from deepsec_jax.studies.report import print_run, write_run_report

        print_run(read_cells(self.run_dir, column_versions()), Console(), times=self.times)
        for path in write_run_report(self.run_dir, self.out or self.run_dir / "report", times=self.times):
            print(f"report {path}")

"""What ``deepsec evaluate attacks``, ``defenses`` and ``detectors`` share: carrying out, and dry runs."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepsec_jax.runs.runner import Job
    from deepsec_jax.runs.store import Store

Stages = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Cell name -> stage -> columns that are missing."""


def carry_out(store: "Store", jobs: "Sequence[Job]", names: Collection[str], todo: Stages, what: str) -> int:
    """Compute what is missing, print failures and tables, and return the exit code.

    Args:
        store: the run directory, whose plan has the cells.
        jobs: how each missing cell is computed.
        names: all cells that were asked for.
        todo: what is missing of each.
        what: what a cell is called, in the plural.
    """
    from deepsec_jax.progress import progress
    from deepsec_jax.runs.runner import run_plan, work

    with progress("evaluate, in gradients", sum(work(job, todo[job.name]) for job in jobs)) as advance:
        failures = run_plan(store, jobs, advance=advance)
    for failure in failures:
        line = f"failed: {failure.name} ({failure.stage}): {failure.error}"
        print(f"{line}; see {store.folder}/failed/{failure.name}", file=sys.stderr)
    finished = len(names) - len({failure.name for failure in failures})
    _print_tables(store, names)
    print(f"{store.folder}: {finished} of {len(names)} {what} finished; deepsec report {store.folder}")
    return 1 if failures else 0


def _print_tables(store: "Store", names: Collection[str]) -> None:
    from rich.console import Console

    from deepsec_jax.runs.store import read_cells
    from deepsec_jax.studies.report import print_run

    print_run([cell for cell in read_cells(store.folder, store.versions) if cell.name in names], Console())


def show_cells(store: "Store", todo: Stages) -> None:
    """Print of each cell whether it is there, what it lacks, and how it failed before."""
    from deepsec_jax.runs.runner import CELL

    for name, stages in todo.items():
        failed = store.failures(name) if stages else []
        state = "missing" if CELL in stages else "columns" if stages else "present"
        absent = [column for columns in stages.values() for column in columns]
        notes = [f"lacks {', '.join(absent)}"] if state == "columns" else []
        notes += [f"failed before: {failed[-1]['error']}"] if failed else []
        print("  ".join([f"{state:8}", name, *notes]))

"""``deepsec evaluate STUDY``: the same steps for every study."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deepsec_jax import declared
from deepsec_jax.cli import models
from deepsec_jax.studies.options import RunOptions

if TYPE_CHECKING:
    from deepsec_jax.runs.runner import Job
    from deepsec_jax.runs.store import Store
    from deepsec_jax.studies.run import Run
    from deepsec_jax.studies.study import Study

Stages = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Cell name -> stage -> missing columns."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate attacks, defenses or detectors; see deepsec evaluate STUDY --help.

    Attributes:
        study: attacks, defenses, detectors, security, robustness, transferability or ensembles.
    """

    study: Annotated[str, tyro.conf.Positional]


def verbs() -> dict[str, type[RunOptions]]:
    """Return the options of every study by name; no study is imported, so that help appears quickly."""
    where = declared.given("deepsec_jax.studies.table", "STUDIES", "options")
    return {name: getattr(import_module(module), kind) for name, (module, kind) in where.items()}


def evaluate(options: RunOptions) -> int:
    """Run the study with these options; return 1 if something failed."""
    from deepsec_jax.studies.table import STUDIES

    study = next(study for study in STUDIES.values() if study.options is type(options))
    options.check()
    run, jobs = opened(study, options, lambda run: study.jobs(options, run))
    return carry_out(options, jobs, run, unit=study.unit) or 0


def opened(
    study: "Study", options: RunOptions, jobs: "Callable[[Run], list[Job]]"
) -> "tuple[Run, list[Job]]":
    """Return the run of a study and its jobs; with ``distributed`` in all processes, or in none."""

    def make() -> "tuple[Run, list[Job]]":
        run = open_run(study, options)
        return run, jobs(run)

    if not options.distributed:
        return make()
    from deepsec_jax.cli.outcomes import agree

    models.join_processes()
    return agree(make)


def carry_out(options: RunOptions, jobs: "Sequence[Job]", run: "Run", *, unit: str) -> int | None:
    """Compute the missing cells, with all processes if ``distributed``; see ``cli/together.py``.

    Returns:
        As :func:`execute`; None in a process that does not lead.
    """
    if not options.distributed:
        return execute(jobs, run, unit=unit, wait=options.wait, dry_run=options.dry_run)
    from deepsec_jax.cli.together import finish, follow, leading
    from deepsec_jax.placement import leads
    from deepsec_jax.runs.store import Store

    if not leads():
        follow(jobs, forget=run.forget)
        return None
    written = replace(run, store=Store(run.store.folder, run.store.versions))
    try:
        code = execute(leading(jobs, forget=run.forget), written, unit=unit, wait=options.wait)
    except Exception:
        finish()
        raise
    finish()
    return code


def execute(
    jobs: "Sequence[Job]", run: "Run", *, unit: str = "cells", wait: bool = True, dry_run: bool = False
) -> int:
    """Compute the missing cells and print the tables.

    Args:
        jobs: of all cells.
        run: model, data and run directory.
        unit: plural name of a cell.
        wait: whether to wait for cells that other processes compute.
        dry_run: print the plan and its estimated time, and write nothing.

    Returns:
        0, or 1 if a cell failed.

    Raises:
        ValueError: invalid input, before any computation.
    """
    from deepsec_jax.runs.atomic import check_room
    from deepsec_jax.runs.runner import CELL, missing

    todo = {job.name: missing(run.store, job.name, job.groups) for job in jobs}
    waiting = [job for job in jobs if todo[job.name]]
    for job in waiting:
        job.notes()  # warns of problems of a model before any computation
    if dry_run:
        _show(run, jobs, todo)
        return 0
    if waiting:
        check_room(run.store.folder, sum(job.bytes for job in waiting if CELL in todo[job.name]))
        for job in waiting:
            job.ready()
    run.store.add_to_plan(job.config for job in jobs)
    return _carry_out(run.store, jobs, todo, unit, wait)


def open_run(study: "Study", options: RunOptions) -> "Run":
    """Return the checked model, data and run directory of a study.

    Args:
        study: what is evaluated.
        options: its options.

    Raises:
        ValueError: no such model or data set, they do not match, or the run directory is invalid.
    """
    from deepsec_jax import data
    from deepsec_jax.evaluation.under_test import check_fits
    from deepsec_jax.placement import beside
    from deepsec_jax.runs.store import Store
    from deepsec_jax.studies.column_versions import column_versions
    from deepsec_jax.studies.run import Run

    load = models.load_base if study.of_network else models.load
    loaded = load(options.model, options.data)
    dataset = data.load(loaded.data, data_dir=options.data_dir, size=loaded.size)
    classes = check_fits(loaded.model, dataset)
    if not study.of_network:
        loaded.warn()
    name = loaded.about["name"].replace(":", ".")
    run_dir = options.run_dir or Path("runs") / "evaluate" / f"{name}-{dataset.name}"
    store = Store(run_dir, column_versions())
    store.check()
    defended = None if loaded.folder is None else loaded.folder.defended
    surrogate = None if defended is None or defended.surrogate is loaded.model else defended.surrogate
    model = models.placed(loaded.model, options.devices, distributed=options.distributed)
    if options.distributed:
        from deepsec_jax.cli.together import LedStore

        store = LedStore(store.folder, store.versions)
    return Run(
        model, loaded.about, dataset, classes, store, options.batch_size, surrogate=beside(surrogate, model)
    )


def _carry_out(store: "Store", jobs: "Sequence[Job]", todo: Stages, unit: str, wait: bool) -> int:
    """Compute the missing cells, print failures and tables, and return the exit code."""
    from deepsec_jax.progress import progress
    from deepsec_jax.runs.runner import missing, run_plan, work

    waiting = [job for job in jobs if todo[job.name]]
    with progress("evaluate, in gradients", sum(work(job, todo[job.name]) for job in waiting)) as advance:
        failures = run_plan(store, waiting, advance=advance, **({} if wait else {"wait": None}))
    for failure in failures:
        line = f"failed: {failure.name} ({failure.stage}): {failure.error}"
        print(f"{line}; see {store.folder}/failed/{failure.name}", file=sys.stderr)
    failed = {failure.name for failure in failures}
    left = sum(1 for job in waiting if job.name not in failed and missing(store, job.name, job.groups))
    finished = len(todo) - len(failed) - left
    _print_tables(store, todo.keys())
    print(f"{store.folder}: {finished} of {len(todo)} {unit} finished; deepsec report {store.folder}")
    return 1 if failures else 0


def _print_tables(store: "Store", names: Collection[str]) -> None:
    from rich.console import Console

    from deepsec_jax.runs.store import read_cells
    from deepsec_jax.studies.report import print_run

    print_run([cell for cell in read_cells(store.folder, store.versions) if cell.name in names], Console())


def _show(run: "Run", jobs: "Sequence[Job]", todo: Stages) -> None:
    """Print the state of each cell, its missing columns, earlier failures, and the total time."""
    from deepsec_jax.runs.estimate import estimate
    from deepsec_jax.runs.runner import CELL

    store = run.store
    print(f"{store.folder}: {len(jobs)} cells; nothing is written")
    images = {job.name: job.images for job in jobs}
    for name, stages in todo.items():
        failed = store.failures(name) if stages else []
        state = "missing" if CELL in stages else "columns" if stages else "present"
        absent = [column for columns in stages.values() for column in columns]
        notes = [f"lacks {', '.join(absent)}"] if state == "columns" else []
        notes += [f"n = {images[name]}"] if len(set(images.values())) > 1 else []
        notes += [f"failed before: {failed[-1]['error']}"] if failed else []
        print("  ".join([f"{state:8}", name, *notes]))
    finished = (
        (config, store.environment(name)) for name, config in store.plan().items() if store.has_cell(name)
    )
    wanted = [job for job in jobs if CELL in todo[job.name]]
    most = max((job.images for job in wanted), default=1)
    print(estimate(wanted, finished, lambda: run.gradient_seconds(most)))

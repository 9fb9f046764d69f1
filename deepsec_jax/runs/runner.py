"""Runs a plan: computes missing cells, records failures; several processes share the work.

Independent of attacks, models and jax; a job has the functions that compute.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepsec_jax.batches import OnBatch
from deepsec_jax.progress import Advance
from deepsec_jax.runs.atomic import StoreError
from deepsec_jax.runs.cell_files import DamagedError, cell_name
from deepsec_jax.runs.cells import short_name
from deepsec_jax.runs.environment import now, versions
from deepsec_jax.runs.store import Store

CELL = "cell"
"""Name of the stage that computes a cell; the other stages are its groups of columns."""

Compute = Callable[[OnBatch], tuple[dict[str, Any], dict[str, np.ndarray]]]
"""``compute(on_batch) -> environment, arrays`` of a cell; see ``runs/cells.py``."""

Measure = Callable[
    [dict[str, Any], dict[str, np.ndarray], tuple[str, ...], OnBatch], Mapping[str, np.ndarray]
]
"""``measure(environment, arrays, names, on_batch) -> column name -> values [N]``."""


def _no_columns(*_: Any) -> Mapping[str, np.ndarray]:
    return {}


_UNKNOWN = 1000  # assumed gradients per image of an attack without a declared cost, for progress


@dataclass(frozen=True)
class Job:
    """One cell of the plan, and how to compute it.  Creating a job computes nothing.

    Attributes:
        config: determines the cell.
        compute: computes the cell.
        groups: group name -> columns that are computed together.
        measure: computes columns of the finished cell.
        images: number of images.
        gradients: approximate number per image; None if unknown.
        at_most: the number of gradients is an upper bound, and most images need fewer.
        seconds: measures the time per image of work that is not counted in gradients; None for none.
        measuring: approximate cost per image of a group of columns, in gradients.
        after: names of cells that this one is computed from.
        bytes: approximate size of the cell and its columns on disk.
        notes: further entries of the cell's environment; called before ``compute``.
        ready: called before the first cell is computed.  If it raises, nothing is computed.
    """

    config: dict[str, Any]
    compute: Compute
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    measure: Measure = _no_columns
    images: int = 1
    gradients: int | None = 1
    at_most: bool = False
    seconds: Callable[[], float] | None = None
    measuring: int = 10
    after: tuple[str, ...] = ()
    bytes: int = 65536
    notes: Callable[[], Mapping[str, Any]] = dict
    ready: Callable[[], Any] = lambda: None

    @property
    def name(self) -> str:
        """The cell's name."""
        return cell_name(self.config)


@dataclass(frozen=True)
class Failure:
    """A failure of this run: cell, stage and the error's line."""

    name: str
    stage: str
    error: str


def missing(store: Store, name: str, groups: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return stage -> columns to compute, in order; ``CELL`` first where the cell is missing."""
    stages: dict[str, tuple[str, ...]] = {} if store.has_cell(name) else {CELL: ()}
    there = store.columns(name)
    for group, columns in groups.items():
        if wanted := tuple(column for column in columns if column not in there):
            stages[group] = wanted
    return stages


def work(job: Job, stages: Mapping[str, tuple[str, ...]]) -> int:
    """Return the approximate cost of these stages in gradients, the unit of progress."""
    return sum(job.images * _weight(job, stage) for stage in stages)


def _weight(job: Job, stage: str) -> int:
    each = _UNKNOWN if job.gradients is None else max(1, job.gradients)
    return each if stage == CELL else job.measuring


def run_plan(
    store: Store,
    jobs: Sequence[Job],
    *,
    advance: Advance,
    wait: Callable[[], Any] | None = lambda: time.sleep(1.0),
) -> list[Failure]:
    """Compute the missing stages of the jobs, in order, and return the failures.

    Any number of processes may run on one directory.  A cell that another process holds is postponed, and so
    are cells computed from it.  At the end the process waits for them, and takes them over if their process
    dies; or, without ``wait``, leaves them.  Failures of another process during this run are not tried again.

    Args:
        store: the run directory; its plan has the jobs' cells.
        jobs: all cells of the plan.
        advance: called with the :func:`work` done, by any process.
        wait: called before the next try if other processes hold all remaining cells; None leaves these cells.

    Raises:
        StoreError: the directory cannot be written; finished cells are kept.
    """
    seen = {job.name: len(store.failures(job.name)) for job in jobs}
    meter = _Meter(advance, {job.name: work(job, missing(store, job.name, job.groups)) for job in jobs})
    failures: list[Failure] = []
    waiting = list(jobs)
    while waiting:
        held_elsewhere = []
        unfinished = {job.name for job in waiting}
        for job in waiting:
            if missing(store, job.name, job.groups):
                if any(name in unfinished and not store.has_cell(name) for name in job.after):
                    held_elsewhere.append(job)
                    continue
                with store.lock(job.name) as held:
                    if not held:
                        held_elsewhere.append(job)
                        continue
                    failures += _finish(store, job, seen[job.name], meter)
            unfinished.discard(job.name)
            meter.close(job.name)
        if len(held_elsewhere) == len(waiting):
            if wait is None:
                break
            wait()
        waiting = held_elsewhere
    store.sweep()
    return failures


@dataclass(frozen=True)
class _Meter:
    """Reports progress so that each job counts for its announced work, even if it fails."""

    advance: Advance
    left: dict[str, int]

    def tell(self, name: str, amount: int, note: str) -> None:
        amount = min(amount, self.left[name])
        self.left[name] -= amount
        self.advance(amount, note)

    def close(self, name: str) -> None:
        if self.left[name]:
            self.advance(self.left[name], name)
        self.left[name] = 0


def _finish(store: Store, job: Job, seen: int, meter: _Meter) -> list[Failure]:
    """Compute the missing stages of a locked job; ``seen`` failures are older than this run."""
    elsewhere = {record["group"]: record["error"] for record in store.failures(job.name)[seen:]}
    failures = []
    for stage, columns in missing(store, job.name, job.groups).items():
        error = elsewhere[stage] if stage in elsewhere else _attempt(store, job, stage, columns, meter)
        if error is not None:
            failures.append(Failure(job.name, stage, error))
            if stage == CELL:
                break
    return failures


def computed(job: Job, on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return environment and arrays of a cell; the environment has versions and times."""
    facts = {"versions": versions(), **job.notes(), "started": now()}
    environment, arrays = job.compute(on_batch)
    return {**facts, **environment, "finished": now()}, arrays


def _attempt(store: Store, job: Job, stage: str, columns: tuple[str, ...], meter: _Meter) -> str | None:
    """Compute one stage; return None, or the line of the error that was recorded."""

    def on_batch(images: int) -> None:
        meter.tell(job.name, images * _weight(job, stage), note)

    about = short_name(job.config)
    note = about if stage == CELL else f"{about}: {stage} metrics"

    store.log("start", job.name, stage)
    try:
        if stage == CELL:
            environment, arrays = computed(job, on_batch)
            store.write_cell(job.config, environment, arrays)
        else:
            values = job.measure(store.environment(job.name), store.arrays(job.name), columns, on_batch)
            for column in columns:
                store.write_column(job.name, column, values[column])
    except Exception as error:
        if isinstance(error, StoreError) and not isinstance(error, DamagedError):
            raise  # an error of the directory, not of the cell: recording it would fail, too
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        store.write_failure(job.name, stage, line, traceback.format_exc())
        store.log("failed", job.name, stage)
        return line
    store.log("done", job.name, stage)
    return None

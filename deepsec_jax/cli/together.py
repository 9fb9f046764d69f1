"""One evaluation by all processes of ``jax.distributed``: the first one leads, the others follow.

A computation on devices of several processes must be started by each of them, in the same order.  The leader
carries out the plan as a single process would: it alone writes the run directory.  Before it calls a function
of a job it announces this to the others, which then call the same function of the same job.

    leader     run_plan(leading(jobs)) ... finish()
    followers  follow(jobs)

What jobs read from the run directory the followers get from the leader, so they need no access to it.  A call
that fails in one process fails in all, and the leader records it; see ``outcomes.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from deepsec_jax.batches import silent
from deepsec_jax.cli.outcomes import agree
from deepsec_jax.placement import leads, of_leader
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

COMPUTE, MEASURE, NOTES, READY, END = "compute", "measure", "notes", "ready", "end"


def leading(jobs: Sequence[Job], *, forget: Callable[[], Any]) -> list[Job]:
    """Return jobs that announce each call to the followers.

    Args:
        jobs: of all cells.
        forget: called after a failure, to drop what the processes may have cached differently.
    """
    return [_announced(job, number, forget) for number, job in enumerate(jobs)]


def finish() -> None:
    """Tell the followers that nothing is left to compute."""
    of_leader((END, 0, ()))


def follow(jobs: Sequence[Job], *, forget: Callable[[], Any]) -> None:
    """Compute what the leader announces, until it has finished.

    Args:
        jobs: the leader's, in the same order.
        forget: as for :func:`leading`.
    """
    while True:
        call, number, given = of_leader(None)
        if call == END:
            return
        try:
            agree(partial(_functions(jobs[number])[call], *given))
        except Exception:  # the leader has one, too, and records it
            forget()


def _functions(job: Job) -> dict[str, Callable[..., Any]]:
    return {
        COMPUTE: lambda: job.compute(silent),
        MEASURE: lambda environment, arrays, names: job.measure(environment, arrays, names, silent),
        NOTES: job.notes,
        READY: job.ready,
    }


def _announced(job: Job, number: int, forget: Callable[[], Any]) -> Job:
    def together(call: str, function: Callable[[], Any], *given: Any) -> Any:
        of_leader((call, number, given))
        try:
            return agree(function)
        except Exception:
            forget()
            raise

    def compute(on_batch: Any) -> Any:
        return together(COMPUTE, lambda: job.compute(on_batch))

    def measure(environment: Any, arrays: Any, names: Any, on_batch: Any) -> Any:
        read = {name: np.asarray(arrays[name]) for name in arrays}
        return together(
            MEASURE, lambda: job.measure(environment, read, names, on_batch), environment, read, names
        )

    def notes() -> Any:
        return together(NOTES, job.notes)

    def ready() -> Any:
        return together(READY, job.ready)

    return replace(job, compute=compute, measure=measure, notes=notes, ready=ready)


class LedStore(Store):
    """A run directory that the leader reads for all; every process calls the same methods in the same order.

    It is for what jobs read.  The leader writes to the :class:`Store` itself.
    """

    def plan(self) -> dict[str, dict[str, Any]]:
        """Return the planned cells: name -> config."""
        found: dict[str, dict[str, Any]] = _read(super().plan)
        return found

    def has_cell(self, name: str) -> bool:
        """Tell whether a cell is finished."""
        return bool(_read(partial(super().has_cell, name)))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a finished cell."""

        def read() -> Mapping[str, np.ndarray]:
            arrays = super(LedStore, self).arrays(name)
            return {each: np.asarray(arrays[each]) for each in arrays}

        found: dict[str, np.ndarray] = _read(read)
        return found

    def environment(self, name: str) -> dict[str, Any]:
        """Return the environment of a finished cell."""
        found: dict[str, Any] = _read(partial(super().environment, name))
        return found


def _read(read: Callable[[], Any]) -> Any:
    """Return in every process what the leader reads, or raise its error."""
    answer: tuple[Any, Exception | None] | None = None
    if leads():
        try:
            answer = read(), None
        except Exception as error:
            answer = None, error
    value, failure = of_leader(answer)
    if failure is not None:
        raise failure
    return value

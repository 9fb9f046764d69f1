"""One evaluation by all processes of ``jax.distributed``: the first one leads, the others follow.

A computation on devices of several processes must be started by each of them, in the same order.  The leader
carries out the plan as a single process would: it alone reads and writes the run directory.  Before it calls
a function of a job it announces this to the others, which then call the same function of the same job.

    leader     run_plan(leading(jobs)) ... finish()
    followers  follow(jobs)

The followers get the arrays of a cell from the leader, so they need no access to the run directory.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from deepsec_jax.batches import silent
from deepsec_jax.runs.runner import Job

COMPUTE, MEASURE, NOTES, READY, END = "compute", "measure", "notes", "ready", "end"


def leading(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs that announce each call to the followers."""
    return [_announced(job, number) for number, job in enumerate(jobs)]


def finish() -> None:
    """Tell the followers that nothing is left to compute."""
    _send((END, 0, ()))


def follow(jobs: Sequence[Job]) -> None:
    """Compute what the leader announces, until it has finished.

    Args:
        jobs: the leader's, in the same order.
    """
    while True:
        call, number, given = _send(None)
        if call == END:
            return
        try:
            _functions(jobs[number])[call](*given)
        except Exception:  # the leader has the same one, and records it
            continue


def _functions(job: Job) -> dict[str, Callable[..., Any]]:
    return {
        COMPUTE: lambda: job.compute(silent),
        MEASURE: lambda environment, arrays, names: job.measure(environment, arrays, names, silent),
        NOTES: job.notes,
        READY: job.ready,
    }


def _announced(job: Job, number: int) -> Job:
    def compute(on_batch: Any) -> Any:
        _send((COMPUTE, number, ()))
        return job.compute(on_batch)

    def measure(environment: Any, arrays: Any, names: Any, on_batch: Any) -> Any:
        _send((MEASURE, number, (environment, {name: np.asarray(arrays[name]) for name in arrays}, names)))
        return job.measure(environment, arrays, names, on_batch)

    def notes() -> Any:
        _send((NOTES, number, ()))
        return job.notes()

    def ready() -> Any:
        _send((READY, number, ()))
        return job.ready()

    return replace(job, compute=compute, measure=measure, notes=notes, ready=ready)


def _send(message: Any) -> Any:
    """Return the leader's message in every process; followers give None."""
    content = np.frombuffer(pickle.dumps(message), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    room = np.zeros(length, np.uint8)
    room[: min(length, len(content))] = content[:length]
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(room)).tobytes())

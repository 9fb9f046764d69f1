"""All processes of ``jax.distributed`` succeed or fail together.

A process that fails alone, by too little memory for example, leaves the others in a collective operation that
never ends, and no exception reaches them.  So every process tells its outcome to jax's coordination service,
which needs no device.  If all have come to the end of a call, one failure is a failure of all.  If not, the
others hang: a thread of each process ends it, with one line.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from deepsec_jax.studies.options import InputError

T = TypeVar("T")

GRACE = 10.0
"""Seconds after a failure in which the other processes may come to the end of the call."""

_POLL = 1.0  # seconds between two looks at the failures
_WAIT = 60_000  # milliseconds of one call to the coordination service
_FINE = "fine"
_ENDED = "deepsec/ended/"


class OtherProcessError(InputError):
    """Another process has failed; one line with its number and its error."""


class _Calls:
    """This process: how many calls were begun, whether the thread watches, whether it is about to end."""

    begun = 0
    watched = False
    ending = False


def agree(call: Callable[[], T]) -> T:
    """Return ``call()``; if it fails in one process, it fails in all of them.

    All processes make the same calls in the same order.  A single process makes the call only.

    Raises:
        OtherProcessError: it failed elsewhere and not here.  An error of this process is raised as it is.
    """
    processes = jax.process_count()
    if processes == 1:
        return call()
    number = _Calls.begun
    _Calls.begun += 1
    _watch()
    result: list[T] = []
    mine: Exception | None = None
    try:
        result.append(call())
    except Exception as error:
        mine = error
    told = _FINE if mine is None else f"{type(mine).__name__}: {' '.join(str(mine).split())}"[:500]
    if mine is not None:
        _client().key_value_set(f"deepsec/failed/{number}/{jax.process_index()}", told)
    _client().key_value_set(_outcome(number, jax.process_index()), told)
    outcomes = [_get(_outcome(number, process)) for process in range(processes)]
    if mine is not None:
        if ended := _client().key_value_dir_get(_ENDED):  # the error is that of a lost connection
            _end(ended[0][1])
        raise mine
    for process, line in enumerate(outcomes):
        if line != _FINE:
            raise OtherProcessError(f"process {process} of {processes} failed ({line})")
    return result[0]


def _outcome(number: int, process: int) -> str:
    return f"deepsec/outcome/{number}/{process}"


def _get(name: str) -> str:
    """Return a value of the coordination service, as soon as it is there."""
    while True:
        try:
            value: str = _client().blocking_key_value_get(name, _WAIT)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        else:
            return value


def _watch() -> None:
    """Start the thread that ends this process if another one fails and the rest hangs."""
    if not _Calls.watched:
        _Calls.watched = True
        threading.Thread(target=_end_if_stuck, daemon=True, name="deepsec outcomes").start()


def _end_if_stuck() -> None:
    seen: dict[str, float] = {}
    processes = jax.process_count()
    while True:
        time.sleep(_POLL)
        if (client := _client()) is None:
            return
        try:
            failures = client.key_value_dir_get("deepsec/failed/")
            for name, line in failures:
                number, process = name.rsplit("/", 2)[1:]
                if time.monotonic() - seen.setdefault(number, time.monotonic()) < GRACE:
                    continue
                told = client.key_value_dir_get(f"deepsec/outcome/{number}/")
                if len(told) < processes:
                    _end(f"process {process} of {processes} failed alone ({line})")
        except jax.errors.JaxRuntimeError:  # the service has ended, and with it the run
            return


def _end(reason: str) -> None:
    """End this process although its main thread waits in a collective operation."""
    if _Calls.ending:  # by the other thread
        time.sleep(60 * _POLL)
    _Calls.ending = True
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service may have ended
        _client().key_value_set(f"{_ENDED}{jax.process_index()}", reason)
    print(f"error: {reason}: the run ends, finished cells and epochs are kept", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if jax.process_index() == 0:
        time.sleep(3 * _POLL)  # it runs the coordination service, in which the others read
    os._exit(2)


def _client() -> Any:
    """Return the client of jax's coordination service, None after its end; jax has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client

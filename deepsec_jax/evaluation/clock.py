"""Wall time of compilation, apart from the rest."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jax import monitoring

_COMPILE_EVENTS = "/jax/core/compile/"


@contextmanager
def compile_clock() -> Iterator[Callable[[], float]]:
    """Measure the wall time inside in which jax traces, lowers or compiles.

    A nested trace reports its own duration inside its caller's, so the spans are merged, not added.
    """
    spans: list[tuple[float, float]] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_COMPILE_EVENTS):
            now = time.perf_counter()
            spans.append((now - duration_secs, now))

    def total() -> float:
        covered, reached = 0.0, -math.inf
        for start, end in sorted(spans):
            covered += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return covered

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield total
    finally:
        monitoring.unregister_event_duration_listener(listen)

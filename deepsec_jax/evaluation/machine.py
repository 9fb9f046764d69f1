"""The machine that times were measured on, and the wall time of compilation."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax import monitoring

from deepsec_jax import __version__

_COMPILE_EVENTS = "/jax/core/compile/"


@contextmanager
def compile_clock() -> Iterator[Callable[[], float]]:
    """Measure the wall time that jax spends on tracing, lowering and compiling inside.

    A nested trace reports a duration inside its caller's, so the intervals are merged, not added.
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


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median wall time of a call, which is run once more before to compile it."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def machine_facts() -> dict[str, str]:
    """Return facts about the machine for a page."""
    devices = jax.devices()
    return {
        "Device": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "Versions": f"deepsec_jax {__version__}, jax {jax.__version__}",
    }

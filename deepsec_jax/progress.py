"""Progress on the terminal: a live bar with rate and time left, or plain lines in a log file."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Advance(Protocol):
    """Call with the number of units done since the last call and a short note to show."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.1f}/s")


@contextmanager
def progress(title: str, total: int, *, done_before: int = 0, log_every: float = 30.0) -> Iterator[Advance]:
    """Show progress of ``total`` units on stderr; ``done_before`` of them are not part of the rate.

    On a terminal this is one live bar; elsewhere a plain line every ``log_every`` seconds, so that a
    log file of a background run stays readable.
    """
    if sys.stderr.isatty():
        from rich.console import Console

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, completed=done_before, note="")

            def advance(done: int = 1, note: str = "") -> None:
                bar.update(task, advance=done, note=note)

            yield advance
        return

    started = last = time.monotonic()
    count = done_before

    def log(done: int = 1, note: str = "") -> None:
        nonlocal count, last
        count += done
        now = time.monotonic()
        if now - last < log_every and count < total:
            return
        last = now
        rate = (count - done_before) / max(now - started, 1e-9)
        left = (total - count) / max(rate, 1e-9)
        print(
            f"{title}: {count}/{total}, {rate:,.1f}/s, {left:,.0f} s left {note}".rstrip(),
            file=sys.stderr, flush=True,
        )  # fmt: skip

    yield log

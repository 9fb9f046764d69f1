"""Further processes beside a command, which share its work: ``python -m deepsec_jax.cli.processes WORDS``.

Each runs a command of its own on the same run directory, and ends at once when its parent ends, also if the
parent is killed: it reads a pipe whose other end only the parent holds.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130


class Further:
    """Further processes of a command.

    Attributes:
        started: the processes.
    """

    def __init__(self, started: Sequence[subprocess.Popen[bytes]]) -> None:
        self.started = started

    def close(self) -> None:
        """End them now; see :func:`_end_with_parent`."""
        for process in self.started:
            if process.stdin is not None:
                process.stdin.close()
        self.wait()

    def wait(self) -> None:
        """Wait until they end."""
        for process in self.started:
            process.wait()


@contextmanager
def beside(words: Sequence[str], number: int, logs: Path) -> Iterator[Further]:
    """Run a command in further processes during the block, and end them after it.

    Args:
        words: of the command, without ``deepsec``.
        number: of processes; may be 0.
        logs: folder for what they print, ``process-2.log`` ...
    """
    further = Further([_start(words, logs / f"process-{count}.log") for count in range(2, number + 2)])
    try:
        yield further
    finally:
        further.close()


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *words], stdin=subprocess.PIPE, stdout=said, stderr=said
        )


def _end_with_parent() -> None:
    """Wait until the pipe is closed, and end the process."""
    while os.read(0, 1):  # sys.stdin has a lock that the interpreter needs at its end
        pass
    os._exit(INTERRUPTED)


def main() -> int:
    """Run the command of the arguments, as long as the parent lives."""
    from deepsec_jax.cli.main import main as command

    threading.Thread(target=_end_with_parent, daemon=True).start()
    return command()


if __name__ == "__main__":
    sys.exit(main())

"""kill -9 on real runs: an evaluation killed at random moments must end like an undisturbed one.

1. One undisturbed run of ``deepsec evaluate STUDY MODEL ...``, and its report without times.
2. Run directories whose only process is killed at random moments, ``--kills`` times in all, and started again
   by the same command. If a directory is finished first, the next one follows.
3. The same with two processes on each directory. One of them is killed each time.

Each directory must end with the same CSV, JSON and LaTeX byte for byte. No finished stage (a cell, or a group
of its columns) may be computed again, and a started one only if its process was killed in it. Moments are
drawn evenly over the first half of the time of an undisturbed run, from the first cell on. The same command
continues this program after an interruption.

Options that this program does not know go to ``deepsec evaluate``, for example

    python -m benchmarks.promises.kills security MODEL --folder NEW --defenses FOLDER --n 20
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import table, verdict, write_json
from deepsec_jax.progress import progress
from deepsec_jax.runs.store import Store

SUFFIXES = (".csv", ".json", ".tex")


def main() -> None:
    """Run the three, compare them, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("study", help="attacks, defenses, detectors, security ...")
    parser.add_argument("model", help="model folder; a digits one makes this minutes, not hours")
    parser.add_argument("--folder", required=True, help="new folder for the runs")
    parser.add_argument("--kills", type=int, default=20, help="with one process, and again with two")
    parser.add_argument("--kill-seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", default="benchmarks/results")
    options, evaluate = parser.parse_known_args()
    command = [
        sys.executable, "-m", "deepsec_jax.cli", "evaluate", options.study, options.model, *evaluate
    ]  # fmt: skip
    folder = Path(options.folder)
    state = State(folder / "kills.json")
    undisturbed = folder / "undisturbed"
    if not state.length:
        process = start(command, undisturbed)
        wait_for_work(process, undisturbed)
        started = time.perf_counter()
        if process.wait():
            raise SystemExit(f"the undisturbed run failed: {' '.join(command)}")
        state.length = time.perf_counter() - started
        state.write()
    expected, rows = report(undisturbed), []
    for processes in (1, 2):
        runs = sorted(folder.glob(f"killed-{processes}-*")) or [folder / f"killed-{processes}-00"]
        disturb(command, runs[-1], processes, options, state)  # it may be unfinished
        while len(state.killed[processes]) < options.kills:
            runs.append(folder / f"killed-{processes}-{len(runs):02}")
            disturb(command, runs[-1], processes, options, state)
        killed, logs = state.killed[processes], [Store(run).read_log() for run in runs]
        again = [violation for log in logs for violation in computed_again(log, killed)]
        different = [name for run in runs for name in differing(run, expected)]
        cells = sum(len(list((run / "cells").iterdir())) for run in runs)
        passed = not different and not again
        rows.append([options.study, processes, len(runs), len(killed), cells, sum(map(restarts, logs)),
                     len(again), len(different), verdict(passed)])  # fmt: skip
        print(*different, *again, sep="\n")
        facts = {"evaluate": evaluate, "seconds_undisturbed": state.length, "files": sorted(expected)}
        write_json(options.out, f"kills-{options.study}", {**facts, "rows": rows})
    head = [
        "study", "processes", "directories", "kills", "cells", "stages killed", "computed twice",
        "files that differ", "",
    ]  # fmt: skip
    print(table(head, rows))


class State:
    """What was done so far, kept in a file, so that this program can be killed, too.

    Attributes:
        length: seconds of work of the undisturbed run; 0 until it is finished.
        tries: moments drawn so far.
        killed: number of processes -> ids of the killed ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        kept: dict[str, Any] = {"length": 0.0, "tries": 0, "killed": {}}
        if path.is_file():
            kept = json.loads(path.read_text())
        self.length, self.tries = float(kept["length"]), int(kept["tries"])
        self.killed: dict[int, list[int]] = {
            processes: kept["killed"].get(str(processes), []) for processes in (1, 2)
        }

    def write(self) -> None:
        """Write the file."""
        self.path.write_text(json.dumps({"length": self.length, "tries": self.tries, "killed": self.killed}))


def start(command: Sequence[str], run: Path) -> subprocess.Popen[bytes]:
    """Start the command on a run directory."""
    return subprocess.Popen(
        [*command, "--run-dir", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for_work(process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait until the process has begun to compute, or has ended."""
    while process.poll() is None and all(entry["pid"] != process.pid for entry in Store(run).read_log()):
        time.sleep(0.05)


def disturb(
    command: Sequence[str], run: Path, processes: int, options: argparse.Namespace, state: State
) -> None:
    """Kill one of the processes until there are enough kills, start it again, then let all finish."""
    alive = [start(command, run) for _ in range(processes)]
    killed = state.killed[processes]
    with progress(f"kills, {processes} processes", options.kills, done_before=len(killed)) as advance:
        while len(killed) < options.kills:
            rng = np.random.default_rng((options.kill_seed, processes, state.tries))
            state.tries += 1
            victim = int(rng.integers(processes))
            wait_for_work(alive[victim], run)
            time.sleep(rng.uniform(0, state.length / 2))
            if alive[victim].poll() is None:
                alive[victim].kill()
                killed.append(alive[victim].pid)
                state.write()
                advance()
            elif all(process.poll() is not None for process in alive):
                break  # everything is finished: nothing is left to disturb
            alive[victim].wait()
            alive[victim] = start(command, run)
    for process in alive:
        process.wait()


def report(run: Path) -> dict[str, bytes]:
    """Return name -> content of the report's files without times."""
    subprocess.run(
        [sys.executable, "-m", "deepsec_jax.cli", "report", str(run), "--no-times"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    files = sorted((run / "report").iterdir())
    return {path.name: path.read_bytes() for path in files if path.suffix in SUFFIXES}


def differing(run: Path, expected: dict[str, bytes]) -> list[str]:
    """Return the report's files that are not the undisturbed run's."""
    found = report(run)
    names = sorted(found.keys() | expected)
    return [str(run / "report" / name) for name in names if found.get(name) != expected.get(name)]


def stages(log: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return (cell, group) -> its entries in order."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in log:
        found.setdefault((entry["cell"], entry["group"]), []).append(entry)
    return found


def restarts(log: Sequence[dict[str, Any]]) -> int:
    """Return how many stages were started again after a start."""
    return sum(
        (entry["event"], following["event"]) == ("start", "start")
        for entries in stages(log).values()
        for entry, following in itertools.pairwise(entries)
    )


def computed_again(log: Sequence[dict[str, Any]], killed: Collection[int]) -> list[str]:
    """Return the stages that were started again although they had ended, or nobody was killed in them."""
    last = {entry["pid"]: entry for entry in log}
    found = []
    for (cell, group), entries in stages(log).items():
        for entry, following in itertools.pairwise(entries):
            in_kill = entry["pid"] in killed and last[entry["pid"]] is entry
            if following["event"] == "start" and not (entry["event"] == "start" and in_kill):
                found.append(f"{cell} {group} was computed again after {entry['event']}")
    return found


if __name__ == "__main__":
    main()

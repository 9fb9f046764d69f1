"""kill -9 on real runs: ``deepsec evaluate attacks`` killed at random moments must end like one undisturbed.

1. One undisturbed run, and its report without times.
2. Directories whose only process is killed at random moments, ``--kills`` times in all; a directory that is
   finished before is followed by another.
3. The same with two processes on each directory, one of which is killed each time.

Each directory must end with one finished record per cell and the same report byte for byte, and its log must
show that nothing finished was computed again.  Moments are drawn evenly over the time of an undisturbed run.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import table, verdict, write_json

from deepsec_jax.progress import progress

ATTACKS = ("fgsm", "rfgsm", "bim", "pgd", "umifgsm", "deepfool", "llc", "rllc", "illc", "tmifgsm", "jsma")
FILES = ("attacks.csv", "attacks.json", "attacks.tex", "attacks.html")


def main() -> None:
    """Run the three, compare them, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model folder; a digits one makes this minutes, not hours")
    parser.add_argument("--folder", required=True, help="new folder for the three runs")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    folder, rng = Path(options.folder), np.random.default_rng(options.seed)
    undisturbed = folder / "undisturbed"
    started = time.perf_counter()
    start(options, undisturbed).wait()
    length = time.perf_counter() - started
    expected = report(undisturbed)
    rows = []
    for processes in (1, 2):
        killed, runs = 0, []
        while killed < options.kills:
            runs.append(folder / f"killed-{processes}-{len(runs)}")
            killed += disturb(options, runs[-1], processes, options.kills - killed, length, rng)
        again = [pair for run in runs for pair in computed_again(run)]
        different = [name for run in runs for name in differing(run, expected)]
        cells = sum(len(list((run / "cells").iterdir())) for run in runs)
        passed = not different and not unexplained(again)
        rows.append([processes, len(runs), killed, cells, len(again), len(different), verdict(passed)])
        print(*different, sep="\n")
    write_json(options.out, "kills", {"seconds_undisturbed": length, "rows": rows})
    head = ["processes", "directories", "kills", "cells", "stages started again", "files that differ", ""]
    print(table(head, rows))


def start(options: argparse.Namespace, run: Path) -> subprocess.Popen[bytes]:
    """Start the command on a run directory."""
    command = [
        sys.executable, "-m", "deepsec_jax.cli", "evaluate", "attacks", options.model,
        "--n", str(options.n), "--run-dir", str(run), "--attacks", *ATTACKS,
    ]  # fmt: skip
    if options.data_dir:
        command += ["--data-dir", options.data_dir]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def disturb(
    options: argparse.Namespace, run: Path, processes: int, kills: int, length: float,
    rng: np.random.Generator,
) -> int:  # fmt: skip
    """Kill one of the processes up to ``kills`` times, start it again each time, then let all finish."""
    alive = [start(options, run) for _ in range(processes)]
    killed = 0
    with progress(f"kills, {processes} processes", kills) as advance:
        while killed < kills:
            time.sleep(rng.uniform(0, length))
            victim = int(rng.integers(processes))
            if alive[victim].poll() is None:
                alive[victim].kill()
                killed += 1
                advance()
            elif all(process.poll() is not None for process in alive):
                break  # everything is finished: nothing is left to disturb
            alive[victim].wait()
            alive[victim] = start(options, run)
    for process in alive:
        process.wait()
    return killed


def report(run: Path) -> dict[str, bytes]:
    """Return the report's files without times."""
    subprocess.run(
        [sys.executable, "-m", "deepsec_jax.cli", "report", str(run), "--no-times"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return {name: (run / "report" / name).read_bytes() for name in FILES}


def differing(run: Path, expected: dict[str, bytes]) -> list[str]:
    """Return the report's files that are not the undisturbed run's."""
    return [str(run / "report" / name) for name, found in report(run).items() if found != expected[name]]


def computed_again(run: Path) -> list[tuple[str, str]]:
    """Return (event before, event) of every start of a stage that had been started before."""
    log: list[dict[str, Any]] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = []
    for stage in {(entry["cell"], entry["group"]) for entry in log}:
        events = [entry["event"] for entry in log if (entry["cell"], entry["group"]) == stage]
        found += [(before, event) for before, event in itertools.pairwise(events) if event == "start"]
    return found


def unexplained(again: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the starts that no kill explains: those of a stage that was done or had failed."""
    return [pair for pair in again if pair[0] != "start"]


if __name__ == "__main__":
    main()

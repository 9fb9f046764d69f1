"""kill -9 on ``deepsec reproduce``: killed at random moments, it must write the site of an undisturbed run.

1. One undisturbed run of the plan.
2. Run directories whose only process is killed at random moments, ``--kills`` times in all, and started again
   by the same command.
3. The same with two processes on each directory. One of them is killed each time.

The sites are written with ``--no-times`` and must be equal byte for byte, file by file. So the models that
were trained, too, are those of the undisturbed run: their hashes are in the site. The time between
two kills has an exponential distribution, whose mean is a third of the fastest run so far (the first one also
compiles). If a directory is finished before enough kills, the next one follows.

    python -m benchmarks.promises.reproduce_kills --folder NEW

"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import table, verdict, write_json
from deepsec_jax.progress import progress

PLAN = Path(__file__).with_suffix(".toml")


def main() -> None:
    """Run the three, compare the sites, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", default=str(PLAN), help="digits, or the path of a plan")
    parser.add_argument("--folder", required=True, help="new folder for the runs")
    parser.add_argument("--kills", type=int, default=5, help="with one process, and again with two")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    plan = str(Path(options.plan).resolve()) if options.plan.endswith(".toml") else options.plan
    rows, facts = compare(plan, Path(options.folder), kills=options.kills, seed=options.seed)
    write_json(options.out, "reproduce-kills", {**facts, "plan": options.plan, "rows": rows})
    print(table(["processes", "directories", "kills", "files of a site", "files that differ", ""], rows))


def compare(plan: str, folder: Path, *, kills: int, seed: int) -> tuple[list[list[Any]], dict[str, Any]]:
    """Run the three and return the rows of the table, and further facts.

    Args:
        plan: name or absolute path of the plan.
        folder: new folder for the runs.
        kills: number of kills with one process, and again with two.
        seed: of the moments.

    Raises:
        SystemExit: a process that was not killed has failed.
    """
    rng, undisturbed, started = np.random.default_rng(seed), folder / "undisturbed", time.perf_counter()
    if start(plan, undisturbed).wait():
        raise SystemExit(f"the undisturbed run failed: see {undisturbed}/log")
    length, rows = time.perf_counter() - started, []
    undisturbed_seconds = length
    expected = site(undisturbed)
    for processes in (1, 2):
        killed: list[float] = []
        runs: list[Path] = []
        while len(killed) < kills:
            runs.append(folder / f"killed-{processes}-{len(runs)}")
            length = min(length, disturb(plan, runs[-1], processes, kills, length, killed, rng))
        different = [name for run in runs for name in differing(site(run), expected)]
        print(*different, sep="\n")
        counts = [processes, len(runs), len(killed), len(expected), len(different)]
        rows.append([*counts, verdict(not different)])
    return rows, {"seconds_undisturbed": undisturbed_seconds, "files": sorted(expected)}


def start(plan: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command in a folder; its run directory has the same relative path in each."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "deepsec_jax.cli", "reproduce", plan, "--run-dir", "here", "--no-times"]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def disturb(
    plan: str, folder: Path, processes: int, kills: int, length: float, killed: list[float],
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Kill one of the processes until there are enough kills or all is done, then let all finish.

    Returns the seconds until all had finished.

    Args:
        plan: name or path of the plan.
        folder: in which the processes run.
        processes: number of processes.
        kills: number of kills that are enough.
        length: seconds of a run; three kills are expected in this time.
        killed: seconds after which processes were killed; new ones are appended.
        rng: draws moments and victims.

    Raises:
        SystemExit: a process that was not killed has failed.
    """
    started = time.perf_counter()
    alive = [start(plan, folder) for _ in range(processes)]
    with progress(f"kills, {processes} processes", kills, done_before=len(killed)) as advance:
        while len(killed) < kills:
            victim, moment = int(rng.integers(processes)), rng.exponential(length / 3)
            try:
                alive[victim].wait(timeout=moment)
            except subprocess.TimeoutExpired:
                alive[victim].kill()
                alive[victim].wait()
                killed.append(moment)
                advance()
                alive[victim] = start(plan, folder)
            if all(process.poll() is not None for process in alive):
                break  # everything is finished: nothing is left to disturb
    if any(process.wait() for process in alive):
        raise SystemExit(f"a process failed: see {folder}/log")
    return time.perf_counter() - started


def site(folder: Path) -> dict[str, bytes]:
    """Return name -> content of every file of the site."""
    files = (path for path in (folder / "here" / "site").rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in files}


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Return the names of files that are not the same in both."""
    return sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))


if __name__ == "__main__":
    main()

"""kill -9 at random moments, of one process and of two on one directory: nothing is lost or done twice."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_run
import numpy as np
import pytest

from deepsec_jax.runs.atomic import StoreError
from deepsec_jax.runs.runner import CELL
from deepsec_jax.runs.store import Store, read_cells

CELLS = 12
KILLS = 10


TIMES = dict.fromkeys(("seconds", "started", "finished"), 0)
"""What differs between two runs of one plan."""


class Watched:
    """A run of fake_run.py in a process of its own, started and at work."""

    def __init__(self, run: Path, plant: str = "", pause: float = 0.002) -> None:
        self.run = run
        command = [sys.executable, fake_run.__file__, str(run), str(CELLS), str(pause), plant]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def kill_somewhere(self, rng: np.random.Generator) -> bool:
        """Kill it after some more lines of the log; False if it ended before."""
        wanted = self.logged() + int(rng.integers(0, 5))
        while self.process.poll() is None and self.logged() < wanted:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.01))
        self.process.kill()
        return self.end() == -signal.SIGKILL

    def logged(self) -> int:
        log = self.run / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.is_file() else 0

    def end(self) -> int:
        """Wait for it and return its exit code."""
        with self.process as process:
            return process.wait()


def contents(store: Store) -> dict[str, object]:
    """File -> content of all records, times left out."""
    found: dict[str, object] = {}
    for part in ("cells", "columns", "failed"):
        for path in sorted((store.folder / part).rglob("*")):
            if path.name == "environment.json":
                found[str(path.relative_to(store.folder))] = {**json.loads(path.read_text()), **TIMES}
            elif path.is_file():
                found[str(path.relative_to(store.folder))] = path.read_bytes()
    return found


def violations(run: Path, reference: Path, killed: set[int]) -> list[str]:
    """What a finished run, some of whose processes were killed, shows that it must not."""
    store, found = Store(run), []
    for name in Store(reference).plan():
        try:
            store.cell(name)
        except StoreError as error:
            found.append(str(error))
    ours, theirs = contents(store), contents(Store(reference))
    found += [
        f"{file} differs" for file in sorted(ours.keys() | theirs) if ours.get(file) != theirs.get(file)
    ]
    found += [f"{path} was left" for path in (run / "aside").rglob("*")]
    log = store.read_log()
    last_of = {entry["pid"]: entry for entry in log}
    for stage in {(entry["cell"], entry["group"]) for entry in log}:
        entries = [entry for entry in log if (entry["cell"], entry["group"]) == stage]
        for entry, following in itertools.pairwise(entries):
            if following["event"] != "start":
                continue
            if entry["event"] != "start":
                found.append(f"{stage} was computed again though it was finished")
            elif entry["pid"] not in killed or last_of[entry["pid"]] is not entry:
                found.append(f"{stage} was computed again though nobody was killed in it")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert Watched(run).end() == 0
    assert len(read_cells(run)) == CELLS and violations(run, run, set()) == []
    return run


def test_a_run_killed_at_ten_random_moments_ends_like_an_undisturbed_one(undisturbed, tmp_path):
    rng, killed, runs = np.random.default_rng(0), set(), [tmp_path / "run0"]
    while len(killed) < KILLS:
        watched = Watched(runs[-1])
        if watched.kill_somewhere(rng):
            killed.add(watched.process.pid)
        else:  # it was finished first: go on with another
            runs.append(tmp_path / f"run{len(runs)}")
    assert Watched(runs[-1]).end() == 0
    assert [violations(run, undisturbed, killed) for run in runs] == [[]] * len(runs)


@pytest.mark.long
def test_two_processes_on_one_directory_killed_ten_times_end_like_an_undisturbed_run(undisturbed, tmp_path):
    rng, killed, runs = np.random.default_rng(1), set(), 0
    while len(killed) < KILLS:
        run, runs = tmp_path / f"run{runs}", runs + 1
        pair = [Watched(run, pause=0.02), Watched(run, pause=0.02)]
        while len(killed) < KILLS:
            one = int(rng.integers(2))
            if not pair[one].kill_somewhere(rng):
                break
            killed.add(pair[one].process.pid)
            pair[one] = Watched(run, pause=0.02)
        assert [watched.end() in (0, -signal.SIGKILL) for watched in pair] == [True, True]
        assert Watched(run).end() == 0
        assert violations(run, undisturbed, killed) == []


def test_a_process_that_dies_in_a_cell_is_taken_over(undisturbed, tmp_path):
    dead = Watched(tmp_path / "run", "dies")
    assert dead.end() == -signal.SIGKILL
    assert Watched(tmp_path / "run").end() == 0
    assert violations(tmp_path / "run", undisturbed, {dead.process.pid}) == []


def test_planted_a_lock_that_survives_its_process_is_seen(undisturbed, tmp_path):
    run = tmp_path / "run"
    assert Watched(run, "surviving-lock-dies").end() == -signal.SIGKILL
    assert Watched(run, "surviving-lock").end() == 3  # it waits for a process that is dead
    assert any("fake2" in violation for violation in violations(run, undisturbed, set()))


def test_planted_a_writer_that_does_not_write_atomic_is_seen(undisturbed, tmp_path):
    run = tmp_path / "run"
    dead = Watched(run, "in-place")
    assert dead.end() == -signal.SIGKILL
    assert Watched(run).end() == 1
    assert any("arrays.npz" in line for line in violations(run, undisturbed, {dead.process.pid}))


def test_planted_double_work_and_other_contents_are_seen(tmp_path):
    store = Store(tmp_path / "run")
    names = fake_run.fill(store)
    reference = store.folder

    def found(killed=frozenset()):
        return [line.partition(" was ")[2] for line in violations(store.folder, reference, set(killed))]

    assert found() == []
    store.log("start", names[0], CELL)
    assert found() == ["computed again though it was finished"]
    store.log("start", names[0], CELL)
    assert len(found()) == 2 and "computed again though nobody was killed in it" in found()
    (store.folder / "aside" / "half").mkdir(parents=True)
    assert "left" in found()
    other = Store(store.folder.parent / "other")
    fake_run.fill(other)
    column = other.folder / "columns" / names[1] / "b.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\1")
    assert violations(other.folder, reference, set()) == [f"columns/{names[1]}/b.npy differs"]

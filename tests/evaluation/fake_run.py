"""``python fake_run.py RUN CELLS PAUSE [PLANT]``: pretended attacks in a process of its own, without jax.

It prints ``ready`` when it starts to work.  PLANT breaks what the store promises, or has it die at a
chosen place; see PLANTS.
"""

import itertools
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from deepsec_jax.runs import store as store_module
from deepsec_jax.runs.cells import KINDS
from deepsec_jax.runs.runner import Job, run_plan
from deepsec_jax.runs.store import Store

GROUPS = {"device": ("a", "b"), "host": ("c",)}
ROWS = 6


def config(index: int) -> dict:
    attack = {"name": f"fake{index}", "class": "Fake", "preset": "paper", "hyperparameters": {"eps": 0.3}}
    return {
        "data": "fake",
        "model": {"name": "none"},
        "attack": attack,
        "n": ROWS,
        "seed": 0,
        "candidates": "c",
        "version": KINDS["attack"].version,
    }


def arrays(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    x = rng.uniform(size=(ROWS, 8, 8, 1)).astype(np.float32)
    return {
        "x_adv": 1 - x, "x": x, "success": np.ones(ROWS, np.float32),
        "labels": np.arange(ROWS, dtype=np.int32), "targets": np.full(ROWS, -1, np.int32),
        "rows": np.arange(ROWS, dtype=np.int32),
        "probabilities": rng.uniform(size=(ROWS, 3)).astype(np.float32),
        "predicted": np.zeros(ROWS, np.int32), "confidence": np.ones(ROWS, np.float32),
    }  # fmt: skip


def job(index: int, pause: float = 0.0, dies: bool = False) -> Job:
    def compute(on_batch):
        started = time.time()
        for _ in range(2):
            time.sleep(pause)
            on_batch(ROWS // 2)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"seconds": time.time() - started, "batch_size": 3}, arrays(index)

    def measure(environment, arrays, names, on_batch):
        time.sleep(pause)
        on_batch(ROWS)
        return {name: arrays["x_adv"].mean(axis=(1, 2, 3)) + ord(name) for name in names}

    return Job(config(index), compute, GROUPS, measure, images=ROWS, gradients=2)


def fill(store: Store, cells: int = 2) -> list[str]:
    """Have a finished run of some cells, and return their names."""
    jobs = [job(index) for index in range(cells)]
    store.add_to_plan(job.config for job in jobs)
    assert run_plan(store, jobs, advance=lambda done=1, note="": None) == []
    return [job.name for job in jobs]


def in_place(path, write, *, aside=None, replace=False):
    """A writer that dies half way through a cell, as a kill could find one that does not write aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    if path.name.startswith("fake2"):
        archive = path / "arrays.npz"
        os.truncate(archive, archive.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def surviving_lock(store, name):
    """A lock that is a file, and so is there when its process is not."""
    path = store.folder / "locks" / f"{name}.exists"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        yield False
        return
    yield True
    path.unlink()


PLANTS = ("", "dies", "in-place", "surviving-lock", "surviving-lock-dies")
POLLS = 30


def main(run: str, cells: str, pause: str, plant: str = "") -> int:
    if plant not in PLANTS:
        raise SystemExit(f"unknown plant {plant!r}: {', '.join(PLANTS)}")
    if plant == "in-place":
        store_module.write_atomic = in_place
    if plant.startswith("surviving-lock"):
        Store.lock = surviving_lock
    dies = plant.endswith("dies")
    jobs = [job(index, float(pause), dies and index == 2) for index in range(int(cells))]
    store, polls = Store(Path(run)), itertools.count()

    def wait():
        time.sleep(0.005)
        if plant and next(polls) >= POLLS:
            print("still locked, though nobody works", flush=True)
            os._exit(3)

    print("ready", flush=True)
    store.add_to_plan(job.config for job in jobs)
    return 1 if run_plan(store, jobs, advance=lambda done=1, note="": None, wait=wait) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

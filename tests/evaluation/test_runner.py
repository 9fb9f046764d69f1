"""Carrying out a plan: only what is missing, past failures, beside other processes."""

import itertools
from dataclasses import replace

import fake_run
import numpy as np
import pytest

from deepsec_jax.runs import atomic
from deepsec_jax.runs.atomic import StoreError
from deepsec_jax.runs.runner import CELL, Failure, missing, run_plan, work
from deepsec_jax.runs.store import Store, read_cells


def quiet(done=1, note=""):
    """Progress that nobody watches."""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


def go(store, jobs, **options):
    store.add_to_plan(job.config for job in jobs)
    return run_plan(store, jobs, **{"advance": quiet, "wait": lambda: pytest.fail("waited"), **options})


def starts(store):
    return [(entry["cell"], entry["group"]) for entry in store.read_log() if entry["event"] == "start"]


def failing(job, error, times=10**6):
    """The job, whose cell fails the first ``times`` times."""
    counter = itertools.count()

    def compute(on_batch):
        if next(counter) < times:
            raise error
        return job.compute(on_batch)

    return replace(job, compute=compute)


def test_only_what_is_missing_is_computed(store):
    first, second = fake_run.job(0), fake_run.job(1)
    assert go(store, [replace(first, groups={"device": ("a",)})]) == []
    assert starts(store) == [(first.name, CELL), (first.name, "device")]
    assert go(store, [first, second]) == []
    assert starts(store)[2:] == [(first.name, "device"), (first.name, "host"),
                                 *((second.name, stage) for stage in (CELL, "device", "host"))]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.is_file()}
    assert go(store, [first, second]) == [] and len(starts(store)) == 7
    assert before == {path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.is_file()}
    cells = read_cells(store.folder)
    assert [cell.name for cell in cells] == [first.name, second.name]
    assert sorted(cells[0].columns) == ["a", "b", "c"]
    assert np.array_equal(cells[1].arrays["x"], fake_run.arrays(1)["x"])


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(store):
    jobs = [
        fake_run.job(0),
        failing(fake_run.job(1), ZeroDivisionError("no\n such thing"), 2),
        fake_run.job(2),
    ]
    expected = [Failure(jobs[1].name, CELL, "ZeroDivisionError: no such thing")]
    assert go(store, jobs) == expected
    assert store.has_cell(jobs[2].name) and store.columns(jobs[2].name) == {"a", "b", "c"}
    assert [cell.error for cell in read_cells(store.folder)] == [None, expected[0].error, None]
    assert go(store, jobs) == expected  # a failure blocks no retry, and the next one gets the next number
    folder = store.folder / "failed" / jobs[1].name
    assert sorted(path.name for path in folder.iterdir()) == ["0001.json", "0002.json"]
    assert "raise error" in store.failures(jobs[1].name)[0]["traceback"]
    assert go(store, jobs) == []
    assert [cell.error for cell in read_cells(store.folder)] == [None, None, None]


def test_a_failing_group_of_columns_leaves_the_others(store):
    job = fake_run.job(0)

    def measure(environment, arrays, names, on_batch):
        if names == ("a", "b"):
            raise OSError("codec missing")
        return job.measure(environment, arrays, names, on_batch)

    failures = go(store, [replace(job, measure=measure)])
    assert failures == [Failure(job.name, "device", "OSError: codec missing")]
    (cell,) = read_cells(store.folder)
    assert cell.error is None and list(cell.columns) == ["c"]
    assert missing(store, job.name, job.groups) == {"device": ("a", "b")}


def test_a_raised_version_of_a_column_is_computed_again_and_its_cell_is_not(store):
    job, seen = fake_run.job(0), []

    def measure(environment, arrays, names, on_batch):
        seen.append(names)
        return {name: np.full(fake_run.ROWS, 7.0) for name in names}

    assert go(store, [job]) == []
    today = replace(store, versions={"b": 2})
    assert missing(today, job.name, job.groups) == {"device": ("b",)}
    again = replace(job, compute=lambda on_batch: pytest.fail("attacked again"), measure=measure)
    assert go(today, [again]) == [] and seen == [("b",)]
    assert missing(today, job.name, job.groups) == {} == missing(store, job.name, job.groups)
    (new,), (old,) = read_cells(store.folder, today.versions), read_cells(store.folder)
    assert (new.columns["b"] == 7.0).all() and not (old.columns["b"] == 7.0).any()
    assert (new.columns["a"] == old.columns["a"]).all()
    (cell,) = read_cells(store.folder, {"a": 3})  # in that version it was never measured
    assert sorted(cell.columns) == ["b", "c"]


def test_a_cell_that_another_process_holds_is_waited_for(store):
    jobs, held = [fake_run.job(0), fake_run.job(1)], store.lock(fake_run.job(0).name)
    assert held.__enter__()
    waits = []

    def wait():
        waits.append(starts(store))
        held.__exit__(None, None, None)  # the other process dies without having finished

    assert go(store, jobs, wait=wait) == []
    assert waits == [[(jobs[1].name, stage) for stage in (CELL, "device", "host")]]
    assert store.has_cell(jobs[0].name)


def test_without_waiting_a_held_cell_is_left_with_what_is_computed_from_it(store):
    first, second = fake_run.job(0), replace(fake_run.job(1), after=(fake_run.job(0).name,))
    with store.lock(first.name):
        assert go(store, [first, second, fake_run.job(2)], wait=None) == []
    assert [store.has_cell(job.name) for job in (first, second, fake_run.job(2))] == [False, False, True]


def test_what_is_computed_from_a_cell_comes_after_it_whoever_makes_it(store):
    first, second = fake_run.job(0), replace(fake_run.job(1), after=(fake_run.job(0).name,))
    assert go(store, [replace(second, groups={}), first]) == []
    assert [name for name, stage in starts(store) if stage == CELL] == [first.name, second.name]


def test_what_is_computed_from_a_held_cell_waits_for_it(store):
    first, second = fake_run.job(0), replace(fake_run.job(1), after=(fake_run.job(0).name,))
    held = store.lock(first.name)
    assert held.__enter__()
    waits = []

    def wait():
        waits.append(starts(store))
        held.__exit__(None, None, None)

    assert go(store, [first, second], wait=wait) == []
    assert waits == [[]] and store.has_cell(second.name)


def test_what_is_computed_from_a_failed_cell_is_tried_and_says_so(store):
    first = failing(fake_run.job(0), ValueError("no"))
    second = failing(replace(fake_run.job(1), after=(first.name,)), RuntimeError("nothing to start from"))
    errors = [failure.error for failure in go(store, [first, second])]
    assert errors == ["ValueError: no", "RuntimeError: nothing to start from"]


def test_what_fails_elsewhere_meanwhile_is_not_tried_again(store):
    job = fake_run.job(0)
    store.write_failure(job.name, CELL, "an old failure", "")
    held = store.lock(job.name)
    assert held.__enter__()

    def wait():
        store.write_failure(job.name, CELL, "RuntimeError: too large", "")
        held.__exit__(None, None, None)

    assert go(store, [job], wait=wait) == [Failure(job.name, CELL, "RuntimeError: too large")]
    assert starts(store) == []


def test_a_full_disk_ends_the_run_and_loses_nothing(store, monkeypatch):
    jobs, write = [fake_run.job(0), fake_run.job(1), fake_run.job(2)], atomic.sync

    def full(path):
        if jobs[1].name in path.parts and path.suffix == ".npz":
            raise OSError(28, "No space left on device")
        write(path)

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(
        StoreError, match=r"No space left on device.*free some space.*run the same command again"
    ):
        go(store, jobs)
    assert [store.has_cell(job.name) for job in jobs] == [True, False, False]
    assert list((store.folder / "aside").iterdir()) == []
    monkeypatch.undo()
    assert go(store, jobs) == [] and len(read_cells(store.folder)) == 3
    assert starts(store).count((jobs[0].name, CELL)) == 1


def test_a_damaged_cell_is_a_failure_of_its_columns(store):
    job, other = fake_run.job(0), fake_run.job(1)
    go(store, [replace(job, groups={})])
    archive = store.folder / "cells" / job.name / "arrays.npz"
    archive.write_bytes(archive.read_bytes()[:-50])
    failures = go(store, [job, other])
    assert {failure.stage for failure in failures} == {"device", "host"}
    assert "is damaged" in failures[0].error and "remove it" in failures[0].error
    assert store.columns(other.name) == {"a", "b", "c"}


def test_progress_counts_each_job_for_what_it_was_announced_with(store):
    jobs = [fake_run.job(0), failing(fake_run.job(1), ValueError("no")), fake_run.job(2)]
    total = sum(work(job, missing(store, job.name, job.groups)) for job in jobs)
    told = []
    go(store, jobs, advance=lambda done=1, note="": told.append((done, note)))
    assert sum(done for done, _ in told) == total == 3 * fake_run.ROWS * (2 + 2 * jobs[0].measuring)
    assert (fake_run.ROWS, "fake0") in told


def test_an_interrupt_frees_the_lock(store):
    job = fake_run.job(0)
    with pytest.raises(KeyboardInterrupt):
        go(store, [failing(job, KeyboardInterrupt())])
    assert store.failures(job.name) == []
    assert go(store, [job]) == []

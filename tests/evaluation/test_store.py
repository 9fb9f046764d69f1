"""The run directory: names, what is never overwritten, damage, disks that refuse."""

import json
import os
from dataclasses import replace
from pathlib import Path

import fake_run
import numpy as np
import pytest

from deepsec_jax.runs import atomic
from deepsec_jax.runs import store as store_module
from deepsec_jax.runs.atomic import StoreError, check_room, write_atomic
from deepsec_jax.runs.cell_files import DamagedError
from deepsec_jax.runs.cells import KINDS, is_current, superseded
from deepsec_jax.runs.runner import CELL, run_plan
from deepsec_jax.runs.store import Store, cell_name, read_cells


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


# Names and writing


def test_a_name_follows_from_the_whole_config_and_nothing_else():
    config = fake_run.config(0)
    name = cell_name(config)
    assert name.startswith("fake0-paper-none-fake-s0-") and len(name.rpartition("-")[2]) == 12
    assert cell_name(dict(reversed(config.items()))) == name
    for key, value in (("seed", 1), ("n", 7), ("candidates", "d"), ("data", "other")):
        assert cell_name({**config, key: value}).rpartition("-")[2] != name.rpartition("-")[2]
    nested = {**config, "attack": {**config["attack"], "hyperparameters": {"eps": 0.30000001}}}
    assert cell_name(nested) != name
    odd = {**config, "model": {"name": "my/nets:model " + "x" * 300}}
    assert "/" not in cell_name(odd) and len(cell_name(odd)) < 120


def test_nothing_is_overwritten(store):
    name, _ = fake_run.fill(store)
    with pytest.raises(StoreError, match="exists and is never overwritten: remove it"):
        store.write_cell(fake_run.config(0), {}, fake_run.arrays(5))
    with pytest.raises(StoreError, match="never overwritten"):
        store.write_column(name, "a", np.zeros(fake_run.ROWS))
    assert np.array_equal(store.arrays(name)["x"], fake_run.arrays(0)["x"])


def test_a_file_appears_when_it_is_complete(tmp_path):
    path, seen = tmp_path / "made.txt", []

    def write(written):
        written.write_text("half")
        seen.append(path.exists())
        written.write_text("whole")

    write_atomic(path, write)
    assert seen == [False] and path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]

    def breaks(written):
        written.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "other.txt", breaks)
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_holds_the_union_in_order_of_first_appearance(store, monkeypatch):
    store.add_to_plan([fake_run.config(2), fake_run.config(0)])
    store.add_to_plan([fake_run.config(1), fake_run.config(2)])
    names = [cell_name(fake_run.config(index)) for index in (2, 0, 1)]
    assert list(store.plan()) == names
    # Another process adds a cell between our look at the plan and our write: it is not lost.
    plan, looks = Store.plan, []

    def behind(self):
        looks.append(plan(self))
        if len(looks) == 1:
            Store(store.folder).add_to_plan([fake_run.config(7)])
            return looks[0]
        return plan(self)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "plan", behind)
        store.add_to_plan([fake_run.config(8)])
    assert list(store.plan()) == [*names, *(cell_name(fake_run.config(index)) for index in (7, 8))]


def test_a_plan_that_another_process_holds_for_long_is_one_line(store, monkeypatch):
    monkeypatch.setattr(store_module, "_PLAN_PATIENCE", 0.0)
    with store.lock("plan"), pytest.raises(StoreError, match=r"held by another process .* end that process"):
        store.add_to_plan([fake_run.config(0)])
    store.add_to_plan([fake_run.config(0)])
    assert len(store.plan()) == 1


def test_read_cells_needs_a_run_and_leaves_out_what_is_only_planned(store, tmp_path):
    with pytest.raises(StoreError, match=r"no run in .*evaluate attacks"):
        read_cells(tmp_path)
    names = fake_run.fill(store)
    store.add_to_plan([fake_run.config(5)])
    assert [cell.name for cell in read_cells(store.folder)] == names


def versioned(index, number, **more):
    config = fake_run.config(index) | more
    return config | {"attack": config["attack"] | {"versions": {"Fake": number}}}


def test_a_cell_of_an_earlier_version_gives_way_to_the_one_that_was_asked_for_again():
    old, other, new = versioned(0, 1), versioned(1, 1), versioned(0, 2)
    plan = {cell_name(config): config for config in (old, other, new)}
    assert len(plan) == 3 and superseded(plan) == {cell_name(old)}
    # So does what was computed from it, though its config names another cell.
    after = [versioned(5, 1, source=cell_name(old)), versioned(5, 1, source=cell_name(new))]
    plan |= {cell_name(config): config for config in after}
    assert superseded(plan) == {cell_name(old), cell_name(after[0])}
    seeded = fake_run.config(0) | {"seed": 1}
    assert superseded(plan | {cell_name(seeded): seeded}) == superseded(plan)  # not only the version


def test_reports_leave_out_what_was_asked_for_again(store):
    for number in (1, 2):
        job = replace(fake_run.job(0), config=versioned(0, number))
        store.add_to_plan([job.config])
        assert run_plan(store, [job], advance=lambda done=1, note="": None) == []
    (cell,) = read_cells(store.folder)
    assert cell.config["attack"]["versions"] == {"Fake": 2} and len(store.plan()) == 2


@pytest.mark.parametrize("version", [None, 1, 99])
def test_figures_of_another_version_are_never_taken_for_todays(store, version):
    """What a success is has changed: neither a report nor a further run may mix both."""
    today = fake_run.config(0)
    config = {key: value for key, value in today.items() if key != "version"}
    config |= {} if version is None else {"version": version}
    store.folder.mkdir(parents=True, exist_ok=True)
    name, plan = cell_name(config), store.folder / "plan.json"
    plan.write_text(json.dumps({"cells": {name: config}}))
    further = [fake_run.config(1)]
    for ask in (store.check, lambda: store.add_to_plan(further), lambda: read_cells(store.folder)):
        with pytest.raises(StoreError, match=f"another version .*{name}.*choose another --run-dir"):
            ask()
    plan.write_text(json.dumps({"cells": {cell_name(today): today}}))
    store.check()
    assert list(store.plan()) == [cell_name(today)] != [name]


def test_every_config_says_its_version():
    for name, kind in KINDS.items():
        assert is_current({"kind": name, "version": kind.version})
        assert not is_current({"kind": name, "version": kind.version + 1})
        assert is_current({"kind": name}) == (kind.version == 1)
    assert is_current({"version": KINDS["attack"].version})


def test_a_lock_is_for_one_and_ends_with_it(store):
    with store.lock("x") as mine, store.lock("x") as other, store.lock("y") as third:
        assert (mine, other, third) == (True, False, True)
    with store.lock("x") as again:
        assert again


def test_sweeping_leaves_alone_what_a_living_process_writes(store):
    for name in ("dead", "living"):
        (store.folder / "aside" / name).mkdir(parents=True)
    with store.lock("living"):
        (store.folder / "aside" / "living").mkdir(parents=True, exist_ok=True)
        store.sweep()
        assert [path.name for path in (store.folder / "aside").iterdir()] == ["living"]
    store.sweep()
    assert list((store.folder / "aside").iterdir()) == []


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 9'))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("cells/{}/arrays.npz", cut, "arrays.npz is cut off"),
        ("cells/{}/arrays.npz", os.remove, "arrays.npz is cut off or missing"),
        ("cells/{}/config.json", cut, "config.json is damaged"),
        ("cells/{}/config.json", edit, "config.json belongs to fake0-paper-none-fake-s9"),
        ("cells/{}/config.json", lambda path: path.write_text("[]"), "no JSON object"),
        ("cells/{}/environment.json", os.remove, "environment.json is damaged"),
        ("plan.json", cut, "plan.json is damaged"),
        ("plan.json", edit, "a config does not belong to its name"),
        ("plan.json", lambda path: path.write_text("{}"), "plan.json is damaged"),
    ],
)
def test_damage_is_one_line_and_seen_before_arrays_are_read(store, file, damage, words):
    name, _ = fake_run.fill(store)
    store.check()
    damage(store.folder / file.format(name))
    with pytest.raises(DamagedError, match=words) as caught:
        store.check()
    assert "\n" not in str(caught.value) and ": remove it, and" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("cells/{}/arrays.npz", flip),
        ("columns/{}/a.npy", cut),
        ("columns/{}/a.npy", lambda path: np.save(path, np.zeros(3))),
        ("columns/{}/a.npy", lambda path: np.save(path, np.array([None]), allow_pickle=True)),
        ("columns/{}/a.npy", lambda path: path.write_bytes(b"")),
    ],
)
def test_damage_of_values_is_one_line_when_they_are_read(store, file, damage):
    name, _ = fake_run.fill(store)
    damage(store.folder / file.format(name))
    with pytest.raises(DamagedError, match="is damaged") as caught:
        read_cells(store.folder)
    assert "\n" not in str(caught.value) and "remove it, and it is made again" in str(caught.value)


def test_what_is_removed_for_damage_is_made_again(store):
    names = fake_run.fill(store)
    (store.folder / "columns" / names[0] / "a.npy").unlink()
    (store.folder / "plan.json").unlink()
    fake_run.fill(store)
    assert [sorted(cell.columns) for cell in read_cells(store.folder)] == [["a", "b", "c"]] * 2


# Folders that cannot be written.  Root may write anywhere, so permissions prove nothing here.


@pytest.mark.parametrize(
    ("number", "remedy"), [(28, "free some space"), (30, "choose another folder"), (5, "a working disk")]
)
def test_a_disk_that_refuses_is_one_line_with_a_remedy(store, monkeypatch, number, remedy):
    fake_run.fill(store)
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    for write in (
        lambda: check_room(store.folder),
        lambda: store.add_to_plan([fake_run.config(5)]),
        lambda: store.write_cell(fake_run.config(5), {}, fake_run.arrays(5)),
        lambda: store.write_column("x", "a", np.zeros(2)),
        lambda: store.write_failure("x", CELL, "error", "traceback"),
    ):
        with pytest.raises(StoreError, match=f"cannot write .*{os.strerror(number)}.*{remedy}") as caught:
            write()
        assert "\n" not in str(caught.value)
    after = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} <= {"locks"}


def test_a_log_on_a_full_disk_is_one_line(store):
    store.folder.mkdir()
    (store.folder / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"cannot write .*log\.jsonl"):
        store.log("start", "x", CELL)


def test_a_line_that_a_full_disk_cut_off_is_left_out_of_the_log(store):
    store.folder.mkdir()
    store.log("start", "x", CELL)
    with (store.folder / "log.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert [entry["event"] for entry in store.read_log()] == ["start"]


def test_too_little_room_is_seen_before_anything_is_written(tmp_path):
    with pytest.raises(StoreError, match=r"MB free, but what is missing takes about .*free some space"):
        check_room(tmp_path / "run", 10**18)
    assert list((tmp_path / "run").iterdir()) == []

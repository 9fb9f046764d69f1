"""Cells of detectors: the same clean images in every row, scores of stored images, sweeps, kills."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import watched
from watched import EPS, TESTS, N, make_dataset

from deepsec_jax.evaluation.detector_jobs import scoring_seconds, threshold_of
from deepsec_jax.metrics.detection_record import flagged
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.cells import CLEAN, DETECTION, SWEEP
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.detectors.cumulative_best import cumulative_best
from deepsec_jax.studies.detectors.jobs import _wanted
from deepsec_jax.studies.detectors.options import Options
from deepsec_jax.studies.detectors.tables import sections


@pytest.fixture(scope="module")
def watchers():
    return [watched.watcher("fs"), watched.watcher("lid", watched.Bright())]


@pytest.fixture(scope="module")
def run(tmp_path_factory, watchers):
    """The folder of a finished evaluation."""
    store, _, failures = watched.evaluate(tmp_path_factory.mktemp("watched") / "run", watchers)
    assert failures == []
    return store.folder


def of_kind(run, kind, name="fs"):
    return [cell for cell in read_cells(run) if cell.kind == kind and cell.config["detector"]["name"] == name]


def test_clean_scores_are_of_all_test_images_and_the_rate_is_the_same_in_every_row(run, watchers):
    (clean,) = of_kind(run, CLEAN)
    test = make_dataset().test
    expected = watched.score_of(watchers[0].detector.scorer, test.images)
    assert np.allclose(clean.arrays["scores"], expected, rtol=1e-5, atol=1e-7)
    assert clean.arrays["correct"].sum() == TESTS - 10
    (section,) = sections(read_cells(run))
    for head in section.subjects:
        found = {row.figures[head.key]["fpr"].summary for row in section.rows("attacks")}
        assert len(found) == 1 and len(section.rows("attacks")) == 2
        rate = flagged(head.clean_scores, head.threshold).mean()
        assert found.pop().mean == pytest.approx(rate) and head.threshold == threshold_of(
            watchers[0 if head.name == "fs" else 1].detector
        )


def test_scores_and_success_are_those_of_the_stored_images(run, watchers):
    store = Store(run)
    for cell in of_kind(run, DETECTION):
        source = store.arrays(cell.config["source"])
        expected = watched.score_of(watchers[0].detector.scorer, source["x_adv"])
        assert np.allclose(cell.arrays["scores"], expected, rtol=1e-5, atol=1e-7)
        assert np.array_equal(cell.arrays["success"], source["success"])
        assert np.array_equal(cell.arrays["rows"], source["rows"])


def test_a_sweep_at_the_papers_radius_is_its_attack(run):
    (fgsm,) = [cell for cell in of_kind(run, DETECTION) if cell.config["attack"]["name"] == "fgsm"]
    swept = {cell.config["eps"]: cell for cell in of_kind(run, SWEEP)}
    assert tuple(swept) == EPS
    assert all(np.array_equal(swept[0.3].arrays[name], fgsm.arrays[name]) for name in fgsm.arrays)
    assert swept[0.6].config["attack"]["hyperparameters"]["eps"] == 0.6


# --- more power never looks weaker


def evasions(scores, success, threshold):
    return np.where(flagged(scores, threshold), 0.0, success)


def falls(table):
    """Examples [N] for which some later row is below an earlier one."""
    return (np.diff(table, axis=0) < 0).any(axis=0)


def swept_arrays(run):
    cells = of_kind(run, SWEEP)
    scores, success = (np.stack([cell.arrays[name] for cell in cells]) for name in ("scores", "success"))
    return scores, success, cells[0].config["threshold"]


def test_carried_evasion_and_success_never_fall_and_plain_ones_do(run):
    scores, success, threshold = swept_arrays(run)
    best = cumulative_best(scores, success, threshold)
    assert not falls(evasions(*best, threshold)).any() and not falls(best[1]).any()
    assert falls(evasions(scores, success, threshold)).any()  # planted: plain FGSM as in the paper
    assert np.array_equal(best[0][0], scores[0])
    assert (evasions(*best, threshold) >= evasions(scores, success, threshold)).all()


def test_what_is_carried_is_an_image_that_was_made(run):
    scores, success, threshold = swept_arrays(run)
    for index, (kept, fools) in enumerate(zip(*cumulative_best(scores, success, threshold), strict=True)):
        made = [(scores[earlier] == kept) & (success[earlier] == fools) for earlier in range(index + 1)]
        assert np.any(made, axis=0).all()


def test_the_first_that_evades_is_kept_and_until_then_the_best():
    threshold = 1.0
    scores = np.array([[5.0], [3.0], [4.0], [0.5], [0.1], [9.0]])
    success = np.array([[0.0], [1.0], [1.0], [1.0], [1.0], [1.0]])
    best, fools = cumulative_best(scores, success, threshold)
    assert best.ravel().tolist() == [5.0, 3.0, 3.0, 0.5, 0.5, 0.5] and fools.ravel().tolist() == [
        0,
        1,
        1,
        1,
        1,
        1,
    ]
    unknown = cumulative_best(np.array([[np.nan], [2.0]]), np.ones((2, 1)), threshold)
    assert unknown[0].ravel()[1] == 2.0


@pytest.mark.parametrize("seed", range(5))
def test_carrying_holds_for_any_scores_and_shares_of_draws(seed):
    rng = np.random.default_rng(seed)
    scores, success = rng.normal(size=(6, 200)), rng.integers(0, 11, size=(6, 200)) / 10
    success = success if seed % 2 else np.round(success)
    best = cumulative_best(scores, success, 0.3)
    assert not falls(evasions(*best, 0.3)).any() and falls(evasions(scores, success, 0.3)).any()
    if not seed % 2:
        assert not falls(best[1]).any()
        fooling = np.where(best[1] > 0, best[0], np.inf)
        assert (np.diff(np.where(np.isinf(fooling), 99.0, fooling), axis=0) <= 0).all()


def test_the_report_says_what_the_arrays_say(run):
    (section,) = sections(read_cells(run))
    scores, success, threshold = swept_arrays(run)
    tables = {"plain": (scores, success), "carried": cumulative_best(scores, success, threshold)}
    head = next(head for head in section.subjects if head.name == "fs")
    for row in section.rows("sweep"):
        at = EPS.index(float(row.base))
        found = row.figures[head.key]
        expected = evasions(*(part[at] for part in tables[row.name]), threshold)
        assert found["evasion"].summary.mean == pytest.approx(expected.mean()) and row.n == N
        assert found["mr"].summary.mean == pytest.approx(tables[row.name][1][at].mean())
        assert np.array_equal(row.values[head.key], expected)


# --- names, resuming, kills


def test_names_follow_from_content(run, watchers):
    (clean,), (fgsm, _) = of_kind(run, CLEAN), of_kind(run, DETECTION)
    assert clean.name.startswith("fs-paper-clean-raw-mnist-")
    assert fgsm.name.startswith("fs-paper-detection-fgsm-s0-raw-mnist-")
    assert any(cell.name.startswith("fs-paper-sweep-fgsm-0.02-raw") or "fgsm@0.02" in cell.name
               for cell in of_kind(run, SWEEP))  # fmt: skip
    store, dataset = Store(run), make_dataset()
    other = watched.watcher("fs", fpr=0.1)
    attacked = {
        cell.config["source"]: store.plan()[cell.config["source"]] for cell in of_kind(run, DETECTION)
    }
    again = watched.planned(store, watchers, attacked, dataset)
    assert {each.name for each in again} <= set(store.plan())
    changed = watched.planned(store, [other], attacked, dataset)
    assert not {each.name for each in changed} & set(
        store.plan()
    )  # the threshold alone makes another detector
    assert all(cell_name(each.config) == each.name for each in changed)


def records(run):
    """File -> bytes of all cells, times left out."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted((run / "cells").rglob("*"))
        if path.is_file() and path.name != "environment.json"
    }


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
import watched
from deepsec_jax.evaluation import detector_jobs
scored, calls = detector_jobs.score_all, []

def dying(*given, on_batch, **more):
    def told(rows):
        calls.append(1)
        if len(calls) == {dies}:
            os.kill(os.getpid(), signal.SIGKILL)
        on_batch(rows)
    return scored(*given, on_batch=told, **more)

detector_jobs.score_all = dying
watched.evaluate({run!r}, [watched.watcher("fs"), watched.watcher("lid", watched.Bright())])
"""


def test_a_killed_and_resumed_run_equals_an_undisturbed_one(run, watchers, tmp_path):
    folder, here = tmp_path / "run", Path(__file__).resolve().parent
    paths = [str(here.parent), str(here)]
    program = KILLED.format(paths=paths, dies=17, run=str(folder))  # in the middle of a cell of the sweep
    done = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    half = len(list((folder / "cells").iterdir()))
    assert 2 < half < len(list((run / "cells").iterdir()))
    _, _, failures = watched.evaluate(folder, watchers)
    assert failures == [] and records(folder) == records(run)
    assert not list((folder / "aside").iterdir())


def test_planted_a_run_that_lost_a_cell_is_seen(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    victim = next((tmp_path / "run" / "cells").glob("lid-*sweep*"))
    shutil.rmtree(victim)
    assert records(tmp_path / "run") != records(run)


def test_what_fails_is_recorded_and_the_rest_stands(tmp_path, watchers):
    store, dataset = Store(tmp_path / "run"), make_dataset()
    attacked = watched.attack(store, dataset)
    victim = next(name for name in attacked if name.startswith("llc"))
    jobs = watched.planned(store, watchers[:1], attacked, dataset, eps=())
    store.add_to_plan(each.config for each in jobs)
    archive = store.folder / "cells" / victim / "arrays.npz"
    archive.write_bytes(archive.read_bytes()[:200])
    failures = watched.run_plan(store, jobs, advance=lambda done=1, note="": None)
    assert len(failures) == 1 and "is damaged" in failures[0].error
    assert sum(store.has_cell(each.name) for each in jobs) == 2


def test_scoring_is_timed(watchers):
    assert 0 < scoring_seconds(watchers[0], make_dataset().test.images[:32], repeats=2) < 1


def test_rows_of_other_studies_are_scored_only_by_name():
    """Else the cells would depend on which study was run first."""
    of = {"n": 8, "seed": 0}
    every, named = Options("m", detectors=("d",)), Options("m", detectors=("d",), attacks=("apgd@linf:0.1",))
    usual, other = (
        {"attack": {"name": name, "preset": "paper"}, **of} for name in ("fgsm@0.5", "apgd@linf:0.1")
    )
    assert [_wanted(every, config) for config in (usual, other)] == [True, False]
    assert [_wanted(named, config) for config in (usual, other)] == [False, True]

"""Models that can reject, judged: success and rejection apart, cells, tables, folders, the command line."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import defended
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear
from guards import Brightness, Given, Saturated, Unsure, guarded
from rich.console import Console
from scipy.optimize import linprog
from scipy.special import softmax

from deepsec_jax import data, defenses, models, training
from deepsec_jax.attacks.parts import Steepest
from deepsec_jax.catalog import Card
from deepsec_jax.cli.main import main
from deepsec_jax.data import stored_candidates
from deepsec_jax.defenses import DEFENSES, DETECTORS, DefenseError, FittedDetector
from deepsec_jax.defenses.base import keep_network
from deepsec_jax.defenses.detector import fitting_and_validation
from deepsec_jax.defenses.detector_files import ARRAYS as KEPT
from deepsec_jax.defenses.detector_files import keep_arrays, kept_arrays
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.adaptive import guided_search, joint_runs
from deepsec_jax.evaluation.defense_cells import DECAY, WEIGHTS
from deepsec_jax.evaluation.measured import measure_cell, record_of
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.metrics import METRICS, defense_record_of, measure, measure_defense
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.pytree import Struct
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.defenses.inconsistencies import MASKING
from deepsec_jax.studies.defenses.tables import DEFENSES as STUDY
from deepsec_jax.studies.defenses.tables import sections
from deepsec_jax.studies.report import print_run, render
from deepsec_jax.training.checkpoints import save_model

LINEAR = make_linear()
X = make_images(rows=30, seed=11)
X_ADV = make_images(rows=30, seed=12)
LABELS = np.random.default_rng(0).integers(0, 3, 30).astype(np.int32)
MODEL = guarded(Brightness(), fpr=0.3)


# --- judge and metrics


def test_success_and_rejection_are_counted_apart():
    clean, predicted = (np.asarray(MODEL(images)).argmax(axis=1) for images in (X, X_ADV))
    targets = (LABELS + 1) % 3
    for goal, reached in (
        (None, lambda found: (found != LABELS) & (found != 3)), (targets, lambda found: found == targets)
    ):  # fmt: skip
        outcome = judge(MODEL, X, X_ADV, LABELS, targets=goal)
        np.testing.assert_array_equal(outcome.success, reached(predicted) & ~reached(clean))
        np.testing.assert_array_equal(outcome.before, reached(clean))
        np.testing.assert_array_equal(outcome.rejected, predicted == 3)
    assert 0 < (predicted == 3).sum() < 30
    classes = np.asarray(LINEAR(X_ADV), np.float64)
    np.testing.assert_allclose(outcome.probabilities, softmax(classes, axis=1), rtol=1e-5)
    assert outcome.logits.shape == (30, 4) and outcome.probabilities.shape == (30, 3)
    nothing = judge(MODEL, X[:0], X[:0], LABELS[:0])
    assert nothing.logits.shape == (0, 4) and nothing.probabilities.shape == (0, 3)


def test_a_model_that_cannot_reject_has_no_such_figure():
    outcome = judge(LINEAR, X, X_ADV, LABELS)
    assert np.isnan(outcome.rejected).all()
    column = measure(record_of(LINEAR, X, X_ADV, LABELS), ["rejected"])["rejected"]
    assert np.isnan(column).all() and METRICS["rejected"].needs_rejection


def test_metrics_are_over_the_classes():
    arrays = {"x": np.asarray(X), "x_adv": np.asarray(X_ADV), "labels": LABELS, "targets": np.full(30, -1)}
    names = ("mr", "rejected", "acac", "actc", "nte", "mr_8bit")
    found = measure_cell(MODEL, arrays, names=names, batch_size=8)
    p = softmax(np.asarray(LINEAR(X_ADV), np.float64), axis=1)
    clean, predicted = (np.asarray(MODEL(images)).argmax(axis=1) for images in (X, X_ADV))
    before, reached = ((found != LABELS) & (found != 3) for found in (clean, predicted))
    hit = reached & ~before
    np.testing.assert_array_equal(found["mr"], hit)
    np.testing.assert_array_equal(found["rejected"], predicted == 3)
    np.testing.assert_allclose(found["acac"][hit], p.max(axis=1)[hit], rtol=1e-5)
    np.testing.assert_allclose(found["actc"][hit], p[np.arange(30), LABELS][hit], rtol=1e-5)
    leads = np.diff(np.sort(p, axis=1)[:, -2:], axis=1)[:, 0]
    np.testing.assert_allclose(found["nte"][hit], leads[hit], atol=1e-5)
    assert hit.any() and np.isnan(found["acac"][~hit]).all()


def test_what_is_rejected_is_an_error_where_it_is_clean_and_holds_where_it_was_made():
    answers = predict(MODEL, np.asarray(X_ADV), LABELS, batch_size=8)
    predicted = np.asarray(MODEL(X_ADV)).argmax(axis=1)
    np.testing.assert_array_equal(answers.correct, predicted == LABELS)
    np.testing.assert_array_equal(answers.holds, (predicted == LABELS) | (predicted == 3))
    np.testing.assert_array_equal(answers.rejected, predicted == 3)
    np.testing.assert_array_equal(answers.margins > 0, answers.holds == 0)
    bare = predict(LINEAR, np.asarray(X_ADV), LABELS, batch_size=8)
    np.testing.assert_array_equal(bare.correct, bare.holds)


def test_utility_of_a_guarded_model():
    record = defense_record_of(LINEAR, MODEL, X, LABELS)
    predicted, raw = (np.asarray(model(X)).argmax(axis=1) for model in (MODEL, LINEAR))
    values = measure_defense(record)
    np.testing.assert_array_equal(record.correct, predicted == LABELS)
    np.testing.assert_array_equal(values["csr"], (raw == LABELS) & (predicted == 3))
    np.testing.assert_array_equal(record.rejected, predicted == 3)
    assert not values["crr"].any() and not values["cos"].any() and not values["ccv"].any()
    assert np.isnan(defense_record_of(LINEAR, LINEAR, X, LABELS).rejected).all()


def test_candidates_are_images_that_are_accepted_and_targets_are_classes(tmp_path):
    dataset = defended.make_dataset()
    found = stored_candidates(MODEL, dataset, 20, 0, tmp_path)
    predicted = np.asarray(MODEL(jnp.asarray(found.images))).argmax(axis=1)
    np.testing.assert_array_equal(predicted, found.labels)
    assert found.targets.max() == 2 and (found.targets != found.labels).all()
    never = Guarded(LINEAR, FittedDetector(Given(jnp.full(256, -1e3)), 0.0))  # "rejected" is the least likely
    found = stored_candidates(never, dataset, 20, 0, tmp_path)
    np.testing.assert_array_equal(
        found.least_likely, np.asarray(LINEAR(jnp.asarray(found.images))).argmin(axis=1)
    )


# --- the joint attack


def test_restarts_take_turns_in_the_weight_and_a_confident_run_comes_first():
    settings: dict[str, Any] = dict(eps=0.1, step_size=0.02, steps=5, restarts=3, names=("max_margin", "dlr"))
    settings["decay"] = 0.75
    runs = joint_runs(MODEL, **settings, weights=(1.0, 0.3), confident=1)
    assert runs[0].surrogate is LINEAR or runs[0].surrogate == MODEL.model
    assert [run.surrogate.weight for run in runs[1:]] == [1.0, 0.3, 1.0, 0.3, 1.0, 0.3]
    assert [run.attack.loss.__name__ for run in runs] == ["max_margin"] * 4 + ["dlr"] * 3
    runs_of_linear = joint_runs(LINEAR, **settings, weights=(), confident=0)
    assert [run.surrogate for run in runs_of_linear] == [LINEAR] * 6
    last = guided_search(LINEAR, eps=0.1, queries=7, stops=True)
    assert (last.attack.queries, last.attack.guided, last.surrogate) == (7, True, LINEAR)
    assert last.attack.stops and not guided_search(LINEAR, eps=0.1, queries=7, stops=False).attack.stops


class Still(Struct):
    """How far the right half of an image is from mid-grey: the half that says nothing of the class."""

    def __call__(self, x):
        return jnp.mean(jnp.abs(x[:, :, 2:] - 0.5), axis=(1, 2, 3))


def test_the_joint_attack_lies_still_where_a_tight_detector_looks():
    weights = jax.random.normal(jax.random.key(0), (4, 4, 2)) * jnp.array([1.0, 1.0, 0.0, 0.0])[None, :, None]
    network = Linear(weights.reshape(16, 2), jnp.array([-2.8, 0.0]))  # reached within 0.3
    left = jax.random.uniform(jax.random.key(1), (8, 4, 2, 1), minval=0.3, maxval=0.7)
    x = jnp.concatenate([left, jnp.full_like(left, 0.5)], axis=2)
    labels = network(x).argmax(1)
    guard = Guarded(network, FittedDetector(Still(), 0.004, 0.01))
    keys = jax.random.split(jax.random.key(2), 8)

    def fooled(run):
        found = guard(run(guard, x, labels, key=keys)).argmax(1)
        return float(jnp.mean((found != labels) & (found != 2)))

    settings: dict[str, Any] = dict(restarts=1, names=["max_margin"], decay=0.75, weights=(), confident=0)
    (run,) = joint_runs(guard, eps=0.3, step_size=0.0375, steps=40, **settings)
    assert fooled(run) == 1.0
    circling = run.replace(attack=run.attack.replace(rule=Steepest(), step_size=0.01875))
    assert fooled(circling) < 0.5, "planted: steps of one length"


class Farthest(Struct):
    """The largest change along any of a few directions, from mid-grey."""

    directions: jax.Array

    def __call__(self, x):
        return jnp.max(jnp.abs((x.reshape(len(x), -1) - 0.5) @ self.directions), axis=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_joint_attack_comes_close_to_what_linear_programming_finds(seed):
    # The largest margin of a linear model, under a linear detector that watches the same directions.
    draws, eps, threshold = np.random.default_rng(seed), 0.2, 0.05
    weights = draws.normal(size=25) / 5
    watched = draws.normal(size=(25, 4)) / 5 + 0.7 * weights[:, None] * draws.choice([-1.0, 1.0], size=4)
    largest = -linprog(
        -weights,
        A_ub=np.vstack([watched.T, -watched.T]),
        b_ub=np.full(8, threshold),
        bounds=[(-eps, eps)] * 25,
    ).fun
    assert largest < 0.8 * eps * np.abs(weights).sum(), "the detector leaves less than the ball does"

    def fooled(share, decay):
        both = jnp.asarray(np.stack([np.zeros(25), weights], axis=1), jnp.float32)
        network = Linear(both, jnp.array([0.0, -0.5 * weights.sum() - share * largest]))
        guard = Guarded(
            network, FittedDetector(Farthest(jnp.asarray(watched, jnp.float32)), threshold, 0.025)
        )
        x, labels = jnp.full((16, 5, 5, 1), 0.5), jnp.zeros(16, jnp.int32)
        (run,) = joint_runs(
            guard, eps=eps, step_size=eps / 8, steps=100, restarts=1, names=["max_margin"], decay=decay,
            weights=(), confident=0,
        )  # fmt: skip
        found = guard(run(guard, x, labels, key=jax.random.split(jax.random.key(1), 16))).argmax(1)
        return float(jnp.mean(found == 1))

    assert fooled(0.8, DECAY) == 1.0 and fooled(0.9, DECAY) > 0.5
    assert fooled(1.001, DECAY) == 0.0, "more than there is"
    assert fooled(0.8, 0.0) < 0.3, "planted: the same steps without momentum"


def planted():
    """An honest guard, and one of the same detector that saturates; what is unsure is suspicious."""
    honest = guarded(Unsure(LINEAR), fpr=0.2, weight=0.3)  # at 1 its pull would outweigh the classifier's
    saturated = Saturated(LINEAR, honest.detector)
    return [
        defended.subject("nat"),
        defended.subject("lid", honest),
        defended.subject("fs", saturated, honest),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded") / "run"
    store, _, failures = defended.evaluate(folder, planted())
    assert failures == []
    return store.folder


def cells_of(run, name):
    return {
        cell.config.get("knowledge", "utility"): cell
        for cell in read_cells(run)
        if cell.config.get("defense", {}).get("name") == name and cell.kind != "model_inputs"
    }


def test_cells_say_what_was_rejected(run):
    honest = planted()[1].classifier
    for name in ("lid", "fs"):
        cells = cells_of(run, name)
        for knowledge in ("replayed", "white_box", "adaptive"):
            arrays, columns = cells[knowledge].arrays, cells[knowledge].columns
            predicted, clean = (
                np.asarray(honest(jnp.asarray(arrays[part]))).argmax(axis=1) for part in ("x_adv", "x")
            )
            labels = arrays["labels"]
            np.testing.assert_array_equal(arrays["clean"], clean == labels)
            np.testing.assert_array_equal(
                arrays["right_or_rejected"], (predicted == labels) | (predicted == 3)
            )
            np.testing.assert_array_equal(columns["clean_rejected"], clean == 3)
            np.testing.assert_array_equal(columns[f"{knowledge}_rejected"], predicted == 3)
            np.testing.assert_array_equal(
                columns[knowledge], np.minimum(arrays["clean"], arrays["right_or_rejected"])
            )
            assert arrays["probabilities"].shape == (40, 3)
    asked = cells_of(run, "lid")["adaptive"].config["attack"]["hyperparameters"]
    assert asked["weights"] == list(WEIGHTS) and asked["confident"] == 1
    utility = cells_of(run, "lid")["utility"]
    np.testing.assert_array_equal(utility.columns["rejected"], utility.arrays["logits"].argmax(axis=1) == 3)


def test_cells_of_models_that_cannot_reject_are_what_they_were(run):
    cells = cells_of(run, "nat")
    assert "weights" not in cells["adaptive"].config["attack"]["hyperparameters"]
    for cell in cells.values():
        names = {*cell.arrays, *cell.columns} - {"right_or_rejected"}
        assert not any("rejected" in name for name in names)


def test_a_guard_that_saturates_is_flagged_as_masking_and_the_honest_one_is_not(run):
    (section,) = sections(read_cells(run))
    rows = {row.name: row for row in section.tables[1].rows}
    assert {flag.label for flag in rows["fs"].findings} == {MASKING}
    assert rows["lid"].findings == () and rows["nat"].findings == ()
    assert rows["fs"].values["white_box"].mean() > rows["fs"].values["replayed"].mean()
    assert rows["fs"].values["adaptive"].mean() <= rows["lid"].values["white_box"].mean()


def test_tables_count_rejections_apart(run):
    cells = read_cells(run)
    (section,) = sections(cells)
    rows = {row.name: row for row in section.tables[1].rows}
    assert rows["nat"].beside == {} and set(rows["lid"].beside) == {
        "clean", "replayed", "white_box", "adaptive",
    }  # fmt: skip
    files = render(STUDY, cells)
    lines = list(csv.DictReader(io.StringIO(files["defenses.csv"])))
    found = {
        (line["defense"], line["column"]): line["mean"] for line in lines if line["table"] == "robustness"
    }
    for name in ("clean", "replayed", "white_box", "adaptive"):
        wanted = rows["lid"].beside[name].summary.mean
        assert float(found["lid", f"{name}_rejected"]) == wanted and ("nat", f"{name}_rejected") not in found
    utility = {line["defense"]: line for line in lines if line["column"] == "rejected"}
    assert utility["nat"]["absent"] == "cannot reject" and float(utility["lid"]["mean"]) > 0
    ccv = {line["defense"]: line["absent"] for line in lines if line["column"] == "ccv"}
    assert ccv["nat"] == ""
    said = json.loads(files["defenses.json"])["sections"][0]["robustness"][0]["rows"]
    columns = {row["defense"]: row["columns"] for row in said}
    assert "adaptive_rejected" in columns["lid"] and "adaptive_rejected" not in columns["nat"]
    assert files["defenses.tex"].count("& rejected &") == 2
    assert files["defenses.html"].count("<small>rejected ") == 8
    text = io.StringIO()
    print_run(cells, Console(file=text, width=120))
    assert text.getvalue().count("\n   rejected ") + text.getvalue().count("\n  rejected ") == 2
    assert "cycling through detector weights 1, 3, 0.3, 10" in files["defenses.html"]


def test_without_detectors_no_table_has_such_a_column(run):
    cells = [cell for cell in read_cells(run) if cell.config.get("defense", {}).get("name") in (None, "nat")]
    files = render(STUDY, cells)
    assert all("ejected" not in text for text in files.values())


def test_a_run_from_before_there_were_detectors_is_read(run, tmp_path):
    """Arrays of rejection are further ones: a cell without them is whole."""
    shutil.copytree(run, tmp_path / "run")
    cell = cells_of(run, "lid")["utility"]
    path = tmp_path / "run" / "cells" / cell.name / "arrays.npz"
    np.savez(path, **{name: array for name, array in cell.arrays.items() if name != "rejected"})
    assert "rejected" not in Store(tmp_path / "run").arrays(cell.name)


# --- folders and the command line


class Bright(Struct):
    """A detector: bright images are suspicious."""

    fpr: float = 0.1

    card: ClassVar[Card] = Card(
        name="Bright", title="Brightness", reference="none", goal="detection", kind="planted"
    )

    def fit(self, base, data, *, key, folder=None):
        validation = fitting_and_validation(base, data)[1]
        fitted = FittedDetector(Brightness()).at_fpr(validation.images, self.fpr)
        if folder is not None:
            whole = Guarded(base.trained, fitted)
            keep_network(base, data, folder, answers=whole, figures={"threshold": fitted.threshold})
            keep_arrays(folder, threshold=fitted.threshold, spread=fitted.spread)
        return fitted

    def restore(self, saved, folder):
        kept = kept_arrays(folder, "threshold", "spread")
        return FittedDetector(Brightness(), float(kept["threshold"]), float(kept["spread"]))

    def surrogate(self, detector):
        return detector.replace(spread=2 * detector.spread)


@pytest.fixture
def bright(tmp_path, monkeypatch):
    """A folder with a base, and one with the planted detector of it."""
    monkeypatch.chdir(tmp_path)
    for table in (DETECTORS, DEFENSES):
        monkeypatch.setitem(table, "bright", Bright)
    digits = data.load("digits")
    network = models.build("small_cnn", (8, 8, 1), 10, seed=0)
    save_model(
        "base", network, training.recipe("digits-small"), image_shape=(8, 8, 1), classes=10,
        figures={"test_accuracy": 0.1, "test_images": 450, "best_epoch": 0,
                 "trained_on": {"data": digits.digest()}},
    )  # fmt: skip
    base = defenses.base_of(training.load_model("base"), digits)
    card = {"name": "bright", "preset": "paper", "base": "base"}
    made = defenses.fit_into("bright", Bright(), base, digits, key=jax.random.key(0), card=card)
    return made, base, digits


def test_a_detectors_folder_gives_the_guarded_model_and_what_to_differentiate(bright):
    made, base, digits = bright
    again = defenses.load_defended("bright")
    for found in (made, again):
        assert isinstance(found.classifier, Guarded) and isinstance(found.surrogate, Guarded)
        assert found.detector == made.detector and found.defense == Bright()
        assert found.classifier.detector == found.detector
        assert found.surrogate.detector == Bright().surrogate(found.detector)
    x = jnp.asarray(data.unit_images(digits.test.images[:50]))
    predicted = np.asarray(again.classifier(x)).argmax(axis=1)
    np.testing.assert_array_equal(predicted == 10, again.detector.flags(x))
    np.testing.assert_array_equal(again.classifier(x)[:, :10], base.trained(x))
    with pytest.raises(DefenseError, match=r"holds another defense .*settings"):
        defenses.fit_into(
            "bright", Bright(0.2), base, digits, key=jax.random.key(0),
            card={"name": "bright", "preset": "paper", "base": "base"},
        )  # fmt: skip
    keep_arrays("bright", threshold=np.inf, spread=1.0)
    with pytest.raises(DefenseError, match="has no threshold: fit it again"):
        defenses.load_defended("bright")
    Path("bright", KEPT).unlink()
    with pytest.raises(DefenseError, match="is missing"):
        defenses.load_defended("bright")


def test_a_complete_defense_has_no_detector():
    assert defenses.Defended(LINEAR, LINEAR, None, {}, None).detector is None  # type: ignore[arg-type]


@pytest.mark.long  # 20 s; its cells are those of the tests above
def test_the_command_line_evaluates_a_detector(bright, capsys):
    options = ["--n", "8", "--steps", "2", "--restarts", "1", "--batch-size", "8", "--run-dir", "run"]
    assert main(["evaluate", "defenses", "base", "--defenses", "bright", *options]) == 0
    said = capsys.readouterr().out
    assert "rejected" in said and "Rejected" in said
    assert main(["report", "run"]) == 0
    cells = cells_of("run", "bright")
    assert cells["adaptive"].environment["confidences"] is False
    assert cells["adaptive"].environment["gradients"] <= 2 * 3
    clean = cells["utility"]
    made, _, digits = bright
    flags = np.asarray(made.detector.flags(jnp.asarray(data.unit_images(digits.test.images))))
    np.testing.assert_array_equal(clean.columns["rejected"], flags)
    assert np.isnan(clean.columns["ccv"]).all() and np.isnan(clean.columns["cos"]).all()
    np.testing.assert_allclose(clean.columns["cav"], clean.columns["crr"] - clean.columns["csr"])

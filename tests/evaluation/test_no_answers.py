"""Images without an answer (NaN, +inf) are neither right nor fooled, and tables say how many there are."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear
from defended import RAW, make_dataset, subject
from fake_cells import config_of
from mute import Halting, Mute
from watched import evaluate, watcher

from deepsec_jax import attacks, data, training
from deepsec_jax.attacks import Transfer
from deepsec_jax.defenses.detector import FittedDetector
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.attack_jobs import attacked
from deepsec_jax.evaluation.cascade import run_cascade
from deepsec_jax.evaluation.defense_cells import Threat
from deepsec_jax.evaluation.defense_jobs import Defenses, question_of
from deepsec_jax.evaluation.measured import measure_cell, record_of
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.metrics import METRICS, defense_record_of, measure, measure_defense
from deepsec_jax.pytree import Struct
from deepsec_jax.runs.cells import DETECTION, Cell
from deepsec_jax.runs.runner import run_plan
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.report import render_run
from deepsec_jax.studies.table import STUDIES
from deepsec_jax.tables import checks
from deepsec_jax.tables.pictures import SILENT
from deepsec_jax.tables.silence import without_number

LINEAR = make_linear()
X = make_images(rows=40, seed=6)
NAMED = np.asarray(jnp.argmax(LINEAR(X), axis=-1)).astype(np.int32)
MUTE = Mute(LINEAR)
SPOKE = NAMED == 1
assert 5 < SPOKE.sum() < 35
SILENT_X = jnp.repeat(X[np.flatnonzero(~SPOKE)[:1]], 40, axis=0)  # clean images on which no goal is reached


def right_and_wrong():
    """Labels of which every third is wrong."""
    return np.where(np.arange(40) % 3 == 0, (NAMED + 1) % 3, NAMED).astype(np.int32)


# --- judge, metrics, accuracy


@pytest.mark.parametrize("model", [MUTE, Mute(LINEAR, infinite=True)], ids=["nan", "inf"])
def test_the_judge_counts_them_apart(model):
    labels = right_and_wrong()
    outcome = judge(model, SILENT_X, X, labels)
    assert not outcome.before.any()
    np.testing.assert_array_equal(outcome.success, SPOKE & (labels != 1))
    np.testing.assert_array_equal(outcome.no_answer, ~SPOKE)
    np.testing.assert_array_equal(outcome.correct, SPOKE & (labels == 1))
    np.testing.assert_array_equal(outcome.predicted, np.where(SPOKE, 1, -1))
    hit = judge(model, SILENT_X, X, labels, targets=np.zeros(40, np.int32))
    assert not hit.success.any()  # class 0 is where argmax finds a NaN
    answers = predict(model, np.asarray(X), labels, batch_size=16)
    np.testing.assert_array_equal(answers.correct, SPOKE & (labels == 1))
    np.testing.assert_array_equal(answers.correct + answers.fooled + answers.no_answer, 1.0)
    np.testing.assert_array_equal(answers.holds, answers.correct)


def test_a_randomised_model_is_averaged_over_the_draws_that_answer():
    noisy = Noisy(LINEAR, jax.random.split(jax.random.key(0), 1), 0.6)
    outcome = judge(Mute(noisy), X, X, NAMED)
    assert ((outcome.no_answer > 0) & (outcome.no_answer < 1)).any()
    some = np.asarray(outcome.no_answer) < 1
    assert np.isfinite(np.asarray(outcome.probabilities)[some]).all()
    assert np.isnan(np.asarray(outcome.probabilities)[~some]).all()
    names_one = np.asarray(judge(noisy, X, X, NAMED, targets=np.ones(40, np.int32)).before)
    np.testing.assert_allclose(1 - outcome.no_answer, names_one, atol=1e-6)


def test_metrics_of_attacks():
    record = record_of(MUTE, SILENT_X, X, right_and_wrong())
    values = measure(record, ["mr", "mr_8bit", "acac"])
    np.testing.assert_array_equal(values["mr"], SPOKE & (right_and_wrong() != 1))
    assert np.isfinite(values["acac"][values["mr"] == 1]).all()
    assert METRICS["mr"].over == "all"


def test_metrics_of_defenses():
    """Behind a defense that gives no answer an image is not correct, and none is set right by it."""
    labels = right_and_wrong()
    record = defense_record_of(LINEAR, MUTE, X, jnp.asarray(labels))
    right = NAMED == labels
    np.testing.assert_array_equal(record.correct, right & SPOKE)
    np.testing.assert_array_equal(record.no_answer, ~SPOKE)
    np.testing.assert_array_equal(record.no_answer_raw, 0.0)
    values = measure_defense(record)
    np.testing.assert_array_equal(values["csr"], right & ~SPOKE)
    np.testing.assert_array_equal(values["crr"], 0.0)
    np.testing.assert_array_equal(values["cav"], values["crr"] - values["csr"])


def test_accuracy_of_a_model_of_nan_is_zero():
    labels = np.zeros(40, np.int32)  # the class that argmax finds
    assert training.accuracy(Halting(LINEAR, -1.0), data.Split(np.asarray(X), labels)) == 0.0
    assert training.accuracy(Halting(LINEAR, 2.0), data.Split(np.asarray(X), NAMED)) == 1.0


def test_labels_that_do_not_fit_are_refused_and_not_broadcast():
    for labels, targets in ((NAMED[:, None], None), (NAMED, NAMED[:, None]), (NAMED[:5], None)):
        with pytest.raises(ValueError, match=r"\[40\]"):
            judge(LINEAR, X, X, labels, targets=targets)
        with pytest.raises(ValueError, match=r"\[40\]"):
            record_of(LINEAR, X, X, labels, targets=targets)


# --- candidates


def test_candidates_are_images_with_an_answer():
    split = data.Split(np.asarray(X), NAMED)
    halting = Halting(LINEAR, float(np.median(np.asarray(X).mean(axis=(1, 2, 3)))))
    made = data.make_candidates(lambda x: np.asarray(halting(jnp.asarray(x))), split, 15, seed=0)
    assert np.isfinite(np.asarray(halting(jnp.asarray(made.images)))).all()
    with pytest.raises(data.DataError, match=r"only 20 of 40 .*on 20 of them .* NaN or infinite"):
        data.make_candidates(lambda x: np.asarray(halting(jnp.asarray(x))), split, 21, seed=0)


def test_no_candidate_is_driven_to_a_masked_class():
    split = data.Split(np.asarray(X), NAMED)

    def masking(x):
        logits = np.asarray(LINEAR(jnp.asarray(x)))
        return np.concatenate([logits[:, :1], np.full((len(x), 2), -np.inf), logits[:, 1:]], axis=1)

    moved = data.Split(split.images, np.where(NAMED == 0, 0, NAMED + 2).astype(np.int32))
    made = data.make_candidates(masking, moved, 40, seed=0, batch_size=40)
    assert not np.isin(made.targets, (1, 2)).any() and (made.targets != made.labels).all()
    assert not np.isin(made.least_likely, (1, 2)).any()
    # What is possible keeps its draw: on a model without masks the targets are those of before.
    offsets = np.random.default_rng((0, 1)).integers(1, 3, size=40)[made.rows]
    free = data.make_candidates(lambda x: np.asarray(LINEAR(jnp.asarray(x))), split, 40, seed=0)
    np.testing.assert_array_equal(free.targets, (free.labels + offsets) % 3)


# --- tables of attacks


@pytest.fixture(scope="module")
def fooled_into_silence():
    """FGSM on the mute model: what fools the linear model finds no answer here."""
    split = data.Split(np.asarray(X), NAMED)
    candidates = data.make_candidates(lambda x: np.asarray(MUTE(jnp.asarray(x))), split, 8, seed=0)
    attack = Transfer(attacks.FGSM(eps=0.4), LINEAR)
    return attacked(attack, MUTE, candidates, key=jax.random.key(0), batch_size=8)[1]


def test_an_attack_table_says_how_many(fooled_into_silence):
    arrays = fooled_into_silence
    assert not arrays["success"].any() and (arrays["no_answer"] == 1).all()
    assert (arrays["predicted"] == -1).all() and np.isnan(arrays["confidence"]).all()
    rounded = measure_cell(MUTE, arrays, names=("mr_8bit",), batch_size=8)["mr_8bit"]
    cell = Cell("fgsm", config_of("fgsm", n=8), {}, arrays, {"mr_8bit": rounded})
    (section,) = STUDIES["attacks"].sections([cell])
    said = checks.warnings(section, STUDIES["attacks"].checks)
    wanted = "fgsm: no answer (NaN or infinite logits) on 8 of n = 8 adversarial images"
    assert sum(text.startswith(wanted) for text in said) == 1
    page = render_run([cell])["attacks.html"]
    assert SILENT in page and ">nan" not in page.lower()
    spoken = replace(cell, arrays={**arrays, "no_answer": np.zeros(8, np.float32)})  # planted: nothing to say
    (section,) = STUDIES["attacks"].sections([spoken])
    assert not any("no answer" in text for text in checks.warnings(section, STUDIES["attacks"].checks))


# --- tables of defenses


@pytest.fixture(scope="module")
def defense_run(tmp_path_factory):
    """A defense without an answer to bright images, under attack."""
    store, dataset = Store(tmp_path_factory.mktemp("silent") / "run"), make_dataset()
    question = question_of(RAW, {"name": "raw"}, dataset, 3)
    halting = subject("nat", Halting(RAW, 0.52), RAW)
    threat = Threat(eps=0.1, n=20, seed=3, steps=4, restarts=1)

    def notes(subject):
        return {"findings": ["The images are strange." if subject is None else "The outputs are strange."]}

    jobs = Defenses(question, RAW, dataset, store, 20, notes).jobs([halting], threat)
    store.add_to_plan(job.config for job in jobs)
    assert run_plan(store, jobs, advance=lambda *_: None) == []
    return read_cells(store.folder)


def test_a_defense_is_not_credited_with_silence(defense_run):
    for cell in defense_run:
        if "knowledge" not in cell.config or "defense" not in cell.config:
            continue
        arrays = cell.arrays
        bright = arrays["x_adv"].mean(axis=(1, 2, 3)) > 0.52
        np.testing.assert_array_equal(arrays["no_answer"], bright)
        assert not arrays["right_or_rejected"][bright].any()
        dark = arrays["x"].mean(axis=(1, 2, 3)) <= 0.52
        np.testing.assert_array_equal(arrays["clean_no_answer"], ~dark)
        assert not arrays["clean"][~dark].any()
    (utility,) = (cell for cell in defense_run if cell.kind == "utility")
    silent = utility.arrays["no_answer"] == 1
    assert silent.any() and not utility.arrays["correct"][silent].any()
    assert not utility.arrays["no_answer_raw"].any()


def test_tables_of_defenses_say_how_many(defense_run):
    (section,) = STUDIES["defenses"].sections(defense_run)
    said = checks.warnings(section, STUDIES["defenses"].checks)
    (clean,) = [text for text in said if "60 clean images:" in text]
    (utility,) = (cell for cell in defense_run if cell.kind == "utility")
    count = int(utility.arrays["no_answer"].sum())
    assert clean.startswith(f"nat: no answer (NaN or infinite logits) on {count} of n = 60 clean images")
    for knowledge in ("replayed", "white-box", "adaptive"):
        assert sum(f"{knowledge} images: they count" in text for text in said) == 1
    assert sum("clean images of the sample" in text for text in said) == 1  # once, not for each knowledge
    assert said.count("nat: The outputs are strange.") == 1
    assert said.count("undefended: The images are strange.") == 1
    page = render_run(defense_run)["defenses.html"]
    assert "The outputs are strange." in page and "no answer (NaN or infinite logits)" in page


def test_the_cascade_does_not_take_silence_for_success():
    """Images that are brighter than the limit have no answer: an attack that finds only these keeps none."""
    x, labels = np.asarray(X)[SPOKE], NAMED[SPOKE]
    run = Transfer(attacks.PGD(eps=0.4, step_size=0.1, steps=4), LINEAR)
    told = dict(key=jax.random.key(0), batch_size=8)
    made = run_cascade([run], MUTE, x, labels, **told)
    np.testing.assert_array_equal(made.x_adv, x)
    fallen = run_cascade([run], LINEAR, x, labels, **told)
    assert (fallen.x_adv != x).any()  # planted: the same run against a model that answers
    still = Transfer(attacks.PGD(eps=0.0, step_size=0.0, steps=1), LINEAR)
    both = run_cascade([still, run], Halting(LINEAR, -1.0), x, labels, **told)
    np.testing.assert_array_equal(both.x_adv, x)


# --- detectors


class Undefined(Struct):
    """A score that is no number for bright images."""

    def __call__(self, x):
        bright = jnp.mean(x, axis=(1, 2, 3))
        return jnp.where(bright > 0.5, jnp.nan, bright)


def test_scores_that_are_no_numbers_are_flagged_and_told():
    scores = np.asarray(Undefined()(X))
    count = int(np.isnan(scores).sum())
    assert count
    detector = FittedDetector(Undefined(), 2.0)
    np.testing.assert_array_equal(detector.flags(X), np.isnan(scores))
    (said,) = without_number("FS", scores, "clean test images")
    assert f"the score of {count} of n = 40 clean test images is NaN: they count as flagged" in said
    assert without_number("FS", np.zeros(3), "images") == []


class Blank(Struct):
    """A score that is no number where an entry lies at an end of the box, as attacks leave it."""

    def __call__(self, x):
        at_ends = jnp.any((x <= 0.0) | (x >= 1.0), axis=(1, 2, 3))
        return jnp.where(at_ends, jnp.nan, jnp.mean(x, axis=(1, 2, 3)))


def test_tables_of_detectors_say_how_many(tmp_path):
    store, _, failures = evaluate(tmp_path / "run", [watcher("fs", Blank())], eps=(0.3,), names=("fgsm",))
    assert failures == []
    cells = read_cells(store.folder)
    (section,) = STUDIES["detectors"].sections(cells)
    said = checks.warnings(section, STUDIES["detectors"].checks)
    attacked = next(cell for cell in cells if cell.kind == DETECTION)
    count = int(np.isnan(attacked.arrays["scores"]).sum())
    assert count > 20 and not attacked.arrays["no_answer"].any()
    assert sum(f"FS: the score of {count} of n = 40 images of fgsm is NaN" in text for text in said) == 1
    assert sum("images of fgsm@0.3 is NaN" in text for text in said) == 1
    assert not any("clean test images is NaN" in text or "no answer" in text for text in said)
    (row,) = section.rows("attacks")
    tpr = row.figures[section.subjects[0].key]["tpr"].summary
    assert tpr.mean >= count / 40 * 0.9  # flagged, not let through

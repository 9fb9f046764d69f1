"""What an attack's cell holds, against independent counts; and the warnings of a table of attacks."""

import math
import warnings
from typing import ClassVar

import jax
import numpy as np
import pytest
from conftest import Noisy, make_linear

from deepsec_jax import attacks, data
from deepsec_jax.attacks.call import label_targets
from deepsec_jax.attacks.cost import Cost, cost
from deepsec_jax.attacks.settings import hyperparameters
from deepsec_jax.catalog import Card
from deepsec_jax.evaluation import generate as generate_module
from deepsec_jax.evaluation.attack_jobs import attack_job, attacked
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.evaluation.measured import measure_cell
from deepsec_jax.field_checks import count
from deepsec_jax.metrics import METRICS, summarise
from deepsec_jax.pytree import Struct, static
from deepsec_jax.runs.cells import ATTACK, KINDS
from deepsec_jax.runs.runner import run_plan
from deepsec_jax.runs.store import Store
from deepsec_jax.studies.attacks.checks import Judged, spoiled
from deepsec_jax.studies.column_versions import column_versions
from deepsec_jax.tables import pictures
from deepsec_jax.tables.pictures import class_in_words, names_for

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return make_linear(scale=3.0)


@pytest.fixture(scope="module")
def candidates(model):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(400, 4, 4, 1)).astype(np.float32)
    labels = np.asarray(model(jax.numpy.asarray(images))).argmax(1).astype(np.int32)
    return data.make_candidates(
        lambda x: np.asarray(model(jax.numpy.asarray(x))), data.Split(images, labels), 30, seed=0
    )


@pytest.fixture(scope="module")
def results(model, candidates):
    """Costs and arrays of an untargeted and a targeted attack."""
    chosen = (attacks.FGSM(eps=0.1), attacks.TMIFGSM(eps=0.1, steps=3))
    return [attacked(attack, model, candidates, key=KEY, batch_size=8) for attack in chosen]


def test_a_cell_says_what_an_independent_count_says(model, candidates, results):
    costs, arrays = results[0]
    logits = np.asarray(model(jax.numpy.asarray(arrays["x_adv"])))
    wrong = logits.argmax(1) != candidates.labels
    assert 0 < wrong.sum() < 30, "the test needs both outcomes"
    assert (costs["gradients"], costs["forwards"]) == (1, 0)
    np.testing.assert_array_equal(arrays["success"], wrong)
    np.testing.assert_array_equal(arrays["predicted"], logits.argmax(1))
    assert (arrays["targets"] == -1).all() and not arrays["no_answer"].any()
    found = measure_cell(model, arrays, names=("mr", "mr_8bit", "l2", "linf"), batch_size=8)
    delta = (arrays["x_adv"] - candidates.images).reshape(30, -1)
    np.testing.assert_allclose(found["l2"], np.linalg.norm(delta, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["linf"], np.abs(delta).max(1), rtol=1e-5)
    mean = summarise(METRICS["l2"], found["l2"], arrays["success"]).mean
    assert mean == pytest.approx(np.linalg.norm(delta[wrong], axis=1).mean(), rel=1e-5)
    rounded = np.round(arrays["x_adv"] * 255) / np.float32(255)
    again = np.asarray(model(jax.numpy.asarray(rounded))).argmax(1) != candidates.labels
    np.testing.assert_array_equal(found["mr_8bit"], again)


def test_a_targeted_attack_is_scored_against_the_candidates_targets(model, candidates, results):
    _, arrays = results[1]
    found = np.asarray(model(jax.numpy.asarray(arrays["x_adv"]))).argmax(1)
    np.testing.assert_array_equal(arrays["targets"], candidates.targets)
    np.testing.assert_array_equal(arrays["success"], found == candidates.targets)


def test_llc_takes_true_labels_and_is_scored_against_the_least_likely(model, candidates):
    _, arrays = attacked(attacks.LLC(eps=0.3), model, candidates, key=KEY, batch_size=8)
    np.testing.assert_array_equal(arrays["targets"], candidates.least_likely)


def test_no_success_gives_no_distance(model, candidates):
    _, arrays = attacked(attacks.FGSM(eps=0.0), model, candidates, key=KEY, batch_size=8)
    assert not arrays["success"].any()
    found = measure_cell(model, arrays, names=("l2",), batch_size=8)
    assert math.isnan(summarise(METRICS["l2"], found["l2"], arrays["success"]).mean)


def test_a_randomised_model_gets_a_fraction(model, candidates):
    noisy = Noisy(model, jax.random.split(KEY, 5), 0.3)
    _, arrays = attacked(attacks.FGSM(eps=0.1), noisy, candidates, key=KEY, batch_size=8)
    hits = 10 * arrays["success"]  # ten draws
    assert 0 < arrays["success"].mean() < 1 and np.allclose(hits, np.round(hits), atol=1e-3)


def test_time_is_split_at_the_compiler(model, candidates):
    first, second = (
        generate(attacks.BIM(steps=7), model, candidates.images, candidates.labels, key=KEY, batch_size=8)
        for _ in range(2)
    )
    assert first.compile_seconds > 0 and second.compile_seconds < first.compile_seconds / 2
    assert first.seconds >= 0 and second.seconds > 0


def _row(**changes) -> Judged:
    values = dict(
        attack="pgd", hyperparameters={"eps": 0.3, "norm": "linf"}, n=200, success=0.9, success_8bit=0.9
    )  # fmt: skip
    changes.setdefault("success_8bit", changes.get("success", 0.9))
    return Judged(**{**values, **changes})


def test_restarts_show_inner_fields_and_count_all_gradients():
    attack = attacks.Restarts(attacks.PGD(eps=0.2, steps=5), n=3)
    shown = hyperparameters(attack)
    assert shown["eps"] == 0.2 and shown["restarts"] == 3 and shown["start"] == "in_ball"
    assert cost(attack, classes=3, entries=16) == Cost(6.0, 15.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([_row(hyperparameters={"eps": 0.5})], ["pgd", "0.5 or more"]),
        ([_row(success_8bit=0.88)], ["2.0 points", "n = 200"]),
        ([_row(attack="fgsm", success=0.95), _row(success=0.9)], ["fgsm", "ahead of pgd"]),
        ([_row(attack="llc", success=0.95), _row(attack="fgsm")], ["llc", "ahead of fgsm"]),
    ],
)
def test_what_spoils_a_table_is_said(rows, words):
    found = spoiled(rows)
    assert len(found) == 1 and all(word in found[0] for word in words)


@pytest.mark.parametrize(
    "rows",
    [
        [_row()],
        [_row(success_8bit=0.895)],
        [_row(attack="fgsm", success=0.905), _row()],
        [_row(attack="fgsm", success=0.95, hyperparameters={"eps": 0.4}), _row()],
        [_row(hyperparameters={"eps": 1.5, "norm": "l2"})],
    ],
)
def test_a_sound_table_has_no_warnings(rows):
    assert spoiled(rows) == []


def test_perturbations_are_scaled_and_coloured():
    grey = pictures.coloured(np.array([[[0.0], [0.02], [-0.01]]], np.float32))
    assert np.allclose(grey[0, 0], 1) and np.allclose(grey[0, 1], pictures.UP)
    assert grey[0, 2, 2] > grey[0, 2, 0]  # darker is blue
    colour = pictures.coloured(np.array([[[0.0, 0.1, -0.1]]], np.float32))
    assert np.allclose(colour[0, 0], [0.5, 1.0, 0.0])
    assert np.allclose(pictures.coloured(np.zeros((1, 1, 3))), 0.5)


def test_a_class_beyond_the_data_sets_names_is_no_rejection():
    """A model of four classes on data that names two."""
    names = names_for(("a", "b"), 4)
    assert names == ["a", "b", "class 2", "class 3"]
    assert class_in_words(3, names) == "class 3" and class_in_words(4, names) == "rejected"
    assert class_in_words(3, ("a", "b")) == "rejected"  # planted: the data set's names alone


class Hungry(Struct):
    """Planted: memory for a few images only."""

    room: int = static(3, check=count)
    targeted: bool = static(False)
    card: ClassVar[Card] = attacks.FGSM.card
    targets = label_targets

    def __call__(self, model, x, labels, *, key=None):
        if x.shape[0] > self.room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: planted")
        return attacks.FGSM(eps=0.1)(model, x, labels, key=key)


def test_a_cell_that_does_not_fit_into_memory_is_computed_in_smaller_batches(model, candidates, tmp_path):
    arrays = {}
    for name, size in (("fits", 3), ("halved", 24)):
        config = {
            "data": "d", "model": {"name": "m"}, "attack": {"name": name, "preset": "paper"},
            "n": 30, "seed": 0, "images": "i", "candidates": "c", "version": KINDS[ATTACK].version,
        }  # fmt: skip
        job = attack_job(
            config, Hungry(), model, lambda: candidates, groups={"device": ("l2",)}, image_shape=(4, 4, 1),
            classes=3, batch_size=8, gradient_seconds=lambda: 1.0, train_images=lambda: candidates.images,
            fitting=lambda size=size: size,
        )  # fmt: skip
        store = Store(tmp_path / name, column_versions())
        store.check()
        store.add_to_plan([job.config])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert not run_plan(store, [job], advance=lambda done=1, note="": None)
        halvings = [str(each.message) for each in said if "do not fit into memory" in str(each.message)]
        assert len(halvings) == (3 if name == "halved" else 0)  # 24, 12, 6, 3
        assert store.environment(job.name)["batch_size"] == size
        arrays[name] = store.cell(job.name).arrays
    np.testing.assert_array_equal(arrays["halved"]["x_adv"], arrays["fits"]["x_adv"])
    for each in arrays["fits"]:  # the judge's batches have another size, too
        np.testing.assert_allclose(arrays["halved"][each], arrays["fits"][each], rtol=1e-5, err_msg=each)


def test_images_of_a_file_go_to_the_device_as_bytes(model, candidates, monkeypatch):
    seen = []

    def run(attack, model, x, labels, **options):
        seen.append(x.dtype)
        return attacks.run_in_batches(attack, model, x, labels, **options)

    monkeypatch.setattr(generate_module, "run_in_batches", run)
    images = data.unit_images((255 * candidates.images).astype(np.uint8))
    found = [
        generate(attacks.FGSM(eps=0.1), model, each, candidates.labels, key=KEY, batch_size=8).x_adv
        for each in (images, candidates.images)
    ]
    assert seen == [np.uint8, np.float32]
    wanted = attacks.run_in_batches(attacks.FGSM(eps=0.1), model, images, candidates.labels, batch_size=8)
    np.testing.assert_array_equal(found[0], wanted)

"""PD: a PixelCNN learnt by the training loop, images purified by it, and what an attacker differentiates."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear
from few import base, digits, few  # noqa: F401
from flax import nnx

from deepsec_jax import attacks, defenses, training
from deepsec_jax.cli import defend
from deepsec_jax.data import Split
from deepsec_jax.defenses import PD, Base, DefenseError
from deepsec_jax.defenses.pd import BITS, PART, Purified, bits_objective, mean_bits
from deepsec_jax.models.pixelcnn_scan import purify
from deepsec_jax.training import CheckpointError

CARD = {"name": "pd", "preset": "paper", "base": "tests", "seed": 0}
TINY = few("pd").replace(blocks=0, changes=(("epochs", 2), ("learning_rate", 1e-2)))
run = jax.jit(lambda model, x: model(x))


def purified(seed=0, eps=0.3):
    model = TINY.build(nnx.Rngs(seed), 1)
    model.eval()
    return Purified(model, make_linear(shape=(8, 8, 1), seed=seed), eps)


@pytest.fixture(scope="module")
def folder(base, digits, tmp_path_factory):
    """A defended model in its folder, fitted for two epochs."""
    path = tmp_path_factory.mktemp("pd") / "pd"
    with jax.numpy_dtype_promotion("standard"):
        defenses.fit_into(path, TINY, base, digits, key=jax.random.key(0), card=CARD)
    return path


def bits_of(model, x):
    return mean_bits(model, Split(np.asarray(x), np.zeros(len(x), int)))


def test_the_pixelcnn_learns_by_the_training_loop(folder, digits):
    saved = training.load_network(folder / PART, build=TINY.build)
    bits = [-epoch["validation"] for epoch in saved.figures["history"]]
    assert bits[1] < bits[0] < np.log2(17)  # uniform over the levels
    assert saved.figures[BITS] == pytest.approx(mean_bits(saved.model, digits.test))
    parts = [bits_of(saved.model, digits.test.images[rows]) for rows in (slice(0, 30), slice(30, 40))]
    assert (3 * parts[0] + parts[1]) / 4 == pytest.approx(saved.figures[BITS], rel=1e-5)


def test_labels_do_not_matter_to_it_and_dropout_does():
    model = nnx.eval_shape(lambda: TINY.replace(blocks=1, dropout=0.5).build(nnx.Rngs(0), 1))
    model.train()
    model = jax.tree.map(lambda w: jnp.full(w.shape, 0.1), model)
    x, keys = make_images(), jax.random.split(jax.random.key(0))
    loss = jax.jit(lambda labels, key: bits_objective(model, x, labels, key))
    zeros, ones = jnp.zeros(8, int), jnp.ones(8, int)
    assert loss(zeros, keys[0]) == loss(ones, keys[0]) != loss(ones, keys[1])


def test_a_folder_brings_both_networks_back(folder, base, digits):
    defended, x = defenses.load_defended(folder), jnp.asarray(digits.test.images[:8])
    by_hand = run(base.trained, purify(defended.classifier.pixelcnn, x, 0.3))
    assert np.allclose(run(defended.classifier, x), by_hand, atol=1e-5)
    assert not np.allclose(by_hand, run(base.trained, x), atol=1e-2)
    figures = defended.saved.figures
    assert figures["test_accuracy"] == training.accuracy(defended.classifier, digits.test, batch_size=100)
    assert figures["test_images"] == 40 and 0 < figures[BITS] < np.log2(17)


def test_the_folder_is_complete_wherever_the_pixelcnn_was(folder, base, digits, tmp_path):
    """Inside the folder; or beside it, as after a kill and in folders of earlier versions."""
    shutil.copytree(folder, tmp_path / "pd")
    (tmp_path / "pd" / PART).rename(tmp_path / "pd-pixelcnn")
    x = jnp.asarray(digits.test.images[:8])
    wanted = run(defenses.load_defended(folder).classifier, x)
    assert np.array_equal(run(defenses.load_defended(tmp_path / "pd").classifier, x), wanted)
    again = TINY.fit(base, digits, key=jax.random.key(0), folder=tmp_path / "pd")
    assert np.array_equal(run(again, x), wanted)
    assert (tmp_path / "pd" / PART).is_dir() and not (tmp_path / "pd-pixelcnn").exists()
    (tmp_path / "pd" / PART).rename(tmp_path / "lost")
    with pytest.raises(CheckpointError, match=r"no model in .*pd-pixelcnn"):
        defenses.load_defended(tmp_path / "pd")


def test_what_is_missing_or_another_model_is_one_line(folder, tmp_path):
    saved = training.load_network(folder)
    with pytest.raises(CheckpointError, match="no model in"):
        TINY.restore(saved, tmp_path / "elsewhere")
    with pytest.raises(DefenseError, match="holds a model without a PixelCNN"):
        TINY.restore(replace(saved, figures={}), folder)


def test_a_bare_function_is_defended_but_not_kept(digits, tmp_path, monkeypatch):
    bare = Base(None, None, make_linear((8, 8, 1), 10))
    with monkeypatch.context() as patched:
        patched.setattr(defenses.pd, "retrain", None)  # refused before anything is trained
        with pytest.raises(DefenseError, match="fit without folder="):
            TINY.fit(bare, digits, key=jax.random.key(0), folder=tmp_path / "pd")
    with jax.numpy_dtype_promotion("standard"):
        classifier = TINY.fit(bare, digits, key=jax.random.key(0))
    assert run(classifier, jnp.asarray(digits.test.images[:8])).shape == (8, 10)


def test_the_surrogate_has_the_gradient_that_the_purification_lacks(digits):
    classifier, x = purified(), jnp.asarray(digits.test.images[:8])
    surrogate = PD().surrogate(classifier)
    gradient = jax.jit(jax.grad(lambda x, model: model(x)[:, 0].sum()))
    assert np.allclose(run(surrogate, x), run(classifier, x), atol=1e-6)
    assert not np.any(gradient(x, classifier))
    at_purified = gradient(purify(classifier.pixelcnn, x, classifier.eps), classifier.network)
    assert np.any(at_purified) and np.allclose(gradient(x, surrogate), at_purified, rtol=1e-6)


def test_purifying_undoes_what_an_image_does_not_have(folder, digits):
    model, x = defenses.load_defended(folder).classifier.pixelcnn, digits.test.images[:8]
    noise = 0.25 * np.random.default_rng(0).integers(-1, 2, x.shape)
    noisy = np.clip(x + noise, 0, 1).astype(np.float32)
    back = purify(model, jnp.asarray(noisy), 0.3)
    assert bits_of(model, back) < bits_of(model, noisy)
    assert np.abs(np.asarray(back) - noisy).max() <= 0.3 + 1e-6
    unmoved = purify(model, jnp.asarray(noisy), 0.0)
    assert np.allclose(unmoved, noisy, atol=1e-6)  # planted: without a radius nothing can be undone


def test_rows_do_not_see_each_other_and_bits_repeat(digits):
    model, x = purified().pixelcnn, jnp.asarray(digits.test.images[:8])
    order = jnp.array([3, 1, 7, 0, 6, 2, 4, 5])
    whole = purify(model, x, 0.3)
    assert np.array_equal(whole, purify(model, x, 0.3))
    assert np.array_equal(purify(model, x[order], 0.3), whole[order])
    alone = jax.jit(jax.vmap(lambda row: purify(model, row[None], 0.3)[0]))(x)
    assert np.array_equal(alone, whole)
    assert not np.array_equal(purify(model, x, 0.01), whole)


def test_one_compile_for_all_weights_and_radii_under_attack(digits, compiles):
    x, labels = jnp.asarray(digits.test.images[:8]), jnp.zeros(8, jnp.int32)
    with compiles() as count:
        for seed, eps in ((0, 0.3), (1, 0.3), (1, 0.1)):
            x_adv = attacks.FGSM(eps=0.2)(PD().surrogate(purified(seed, eps)), x, labels)
        assert count("FGSM") == 1
    assert 0.1 < float(jnp.abs(x_adv - x).max()) <= 0.2 + 1e-6
    assert np.array_equal(attacks.FGSM(eps=0.2)(purified(), x, labels), x)  # nothing to see without it


@pytest.mark.parametrize(("field", "value"), [("levels", 1), ("filters", 0), ("dropout", 1.0)])
def test_senseless_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"PD\.{field} must be .*at least"):
        PD(**{field: value})


def test_a_dry_run_times_the_pixelcnn_and_not_the_network(base, digits, tmp_path, capsys):
    (tmp_path / "pd-pixelcnn.partial/epochs/0").mkdir(parents=True)
    defend._show(TINY, base.recipe, digits, tmp_path / "pd")
    said = capsys.readouterr().out
    assert f"{tmp_path}/pd-pixelcnn: 1 of 2 epochs of 144 images are left, a PixelCNN on digits" in said
    assert "ms per image and step, measured now" in said


@pytest.mark.long
def test_one_step_at_the_authors_size():
    pd = defenses.preset("pd", "cifar10")
    model = pd.build(nnx.Rngs(0), 3)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x = make_images(rows=1, shape=(8, 8, 3))

    def loss(params):
        return bits_objective(nnx.merge(graph, params, rest), x, jnp.zeros(1, int), jax.random.key(0))

    step = jax.jit(jax.value_and_grad(loss))
    before, gradient = step(params)
    after, _ = step(jax.tree.map(lambda w, g: w - 1e-3 * g, params, gradient))
    assert np.isfinite(before) and float(after) < float(before)

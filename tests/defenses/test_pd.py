"""PD: a PixelCNN learnt by the training loop, images purified by it, and what an attacker differentiates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear
from few import base, digits, few  # noqa: F401
from flax import nnx

from deepsec_jax import attacks, defenses, training
from deepsec_jax.defenses import PD, Base, DefenseError
from deepsec_jax.defenses.pd import BITS, Purified, beside, bits_objective, mean_bits
from deepsec_jax.models.pixelcnn import PixelCNN, bits_per_dim
from deepsec_jax.models.pixelcnn_scan import purify
from deepsec_jax.training import CheckpointError

CARD = {"name": "pd", "preset": "paper", "base": "tests", "seed": 0}


def pixelcnn(seed=0):
    model = PixelCNN(1, filters=4, blocks=1, mixtures=2, levels=17, rngs=nnx.Rngs(seed))
    model.eval()
    return model


def purified(seed=0, eps=0.3):
    return Purified(pixelcnn(seed), make_linear(seed=seed), eps)


@pytest.fixture(scope="module")
def folder(base, digits, tmp_path_factory):
    """A defended model in its folder, fitted for two epochs."""
    path = tmp_path_factory.mktemp("pd") / "pd"
    pd = few("pd").replace(changes=(("epochs", 2), ("learning_rate", 1e-2)))
    with jax.numpy_dtype_promotion("standard"):
        defenses.fit_into(path, pd, base, digits, key=jax.random.key(0), card=CARD)
    return path


def test_the_pixelcnn_learns_by_the_training_loop(folder, digits):
    saved = training.load_model(beside(folder), build=defenses.load_defended(folder).defense.build)
    bits = [-epoch["validation"] for epoch in saved.figures["history"]]
    assert bits[1] < bits[0] < np.log2(17)  # uniform over the levels
    assert saved.figures[BITS] == pytest.approx(mean_bits(saved.model, digits.test))
    each = bits_per_dim(saved.model, jnp.asarray(digits.test.images))
    assert mean_bits(saved.model, digits.test, batch_size=7) == pytest.approx(float(each.mean()), rel=1e-5)


def test_labels_do_not_matter_to_it_and_dropout_does():
    model = PixelCNN(1, filters=4, blocks=1, mixtures=2, levels=17, dropout=0.5, rngs=nnx.Rngs(0))
    model.train()
    model.left_first[0].second.conv.kernel[...] += 1.0  # as drawn it hardly counts
    x, keys = make_images(), jax.random.split(jax.random.key(0))
    one, same, other = (
        float(bits_objective(model, x, labels, key))
        for labels, key in ((jnp.zeros(8, int), keys[0]), (jnp.ones(8, int), keys[0]), (None, keys[1]))
    )
    assert one == same != other


def test_a_folder_brings_both_networks_back(folder, base, digits):
    defended, x = defenses.load_defended(folder), jnp.asarray(digits.test.images)
    by_hand = base.trained(purify(defended.classifier.pixelcnn, x, 0.3))
    assert np.allclose(defended.classifier(x), by_hand, atol=1e-5)
    assert not np.allclose(defended.classifier(x), base.trained(x), atol=1e-2)
    figures = defended.saved.figures
    assert figures["test_accuracy"] == training.accuracy(defended.classifier, digits.test)
    assert figures["test_images"] == 40 and 0 < figures[BITS] < np.log2(17)


def test_what_is_missing_or_another_model_is_one_line(folder, base, digits, tmp_path):
    pd, saved = defenses.load_defended(folder).defense, training.load_model(folder)
    with pytest.raises(CheckpointError, match="no model in"):
        pd.restore(saved, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="of another network than pixelcnn"):
        pd.replace(filters=5).restore(saved, folder)
    with pytest.raises(DefenseError, match="holds a model without a PixelCNN"):
        pd.restore(replace(saved, figures={}), folder)


def test_a_bare_function_is_defended_but_not_kept(digits, tmp_path, monkeypatch):
    bare = Base(None, None, make_linear((8, 8, 1), 10))
    with monkeypatch.context() as patched:
        patched.setattr(defenses.pd, "retrain", None)  # refused before anything is trained
        with pytest.raises(DefenseError, match="fit without folder="):
            few("pd").fit(bare, digits, key=jax.random.key(0), folder=tmp_path / "pd")
    with jax.numpy_dtype_promotion("standard"):
        classifier = few("pd").fit(bare, digits, key=jax.random.key(0))
    assert classifier(jnp.asarray(digits.test.images[:3])).shape == (3, 10)


def test_the_surrogate_has_the_gradient_that_the_purification_lacks():
    classifier, x = purified(), make_images()
    surrogate = PD().surrogate(classifier)

    def gradient(model, x):
        return jax.grad(lambda x: model(x)[:, 0].sum())(x)

    assert np.allclose(surrogate(x), classifier(x), atol=1e-6)
    assert not np.any(gradient(classifier, x))
    at_purified = gradient(classifier.network, purify(classifier.pixelcnn, x, classifier.eps))
    assert np.any(at_purified) and np.allclose(gradient(surrogate, x), at_purified, rtol=1e-6)


def test_purifying_undoes_what_an_image_does_not_have(folder, digits):
    classifier = defenses.load_defended(folder).classifier
    x = jnp.asarray(digits.test.images[:20])
    noise = 0.25 * jax.random.randint(jax.random.key(0), x.shape, -1, 2).astype(jnp.float32)
    noisy = jnp.clip(x + noise, min=0.0, max=1.0)
    back = jax.jit(purify)(classifier.pixelcnn, noisy, 0.3)
    bits = [float(bits_per_dim(classifier.pixelcnn, images).mean()) for images in (x, noisy, back)]
    assert bits[2] < bits[1]
    unmoved = jax.jit(purify)(classifier.pixelcnn, noisy, 0.0)
    assert np.allclose(unmoved, noisy, atol=1e-6)  # planted: without a radius nothing can be undone


def test_rows_do_not_see_each_other_and_bits_repeat():
    classifier, x = purified(), make_images()
    order = jnp.array([3, 1, 7, 0, 6, 2, 4, 5])
    run = jax.jit(lambda model, x: purify(model.pixelcnn, x, model.eps))
    whole = run(classifier, x)
    assert np.array_equal(whole, run(classifier, x)) and np.array_equal(
        run(classifier, x[order]), whole[order]
    )
    alone = jax.vmap(lambda row: purify(classifier.pixelcnn, row[None], classifier.eps)[0])(x)
    assert np.array_equal(alone, whole)
    assert not np.array_equal(run(purified(eps=0.01), x), whole)


def test_one_compile_for_all_weights_and_radii_under_attack(compiles):
    x, labels = make_images(), jnp.zeros(8, jnp.int32)
    pgd = attacks.PGD(eps=0.2, step_size=0.1, steps=2)
    with compiles() as count:
        for seed, eps in ((0, 0.3), (1, 0.3), (1, 0.1)):
            model = purified(seed, eps)
            x_adv = pgd(PD().surrogate(model), x, labels, key=jax.random.key(0))
        assert count("PGD") == 1
    assert float(jnp.abs(x_adv - x).max()) <= 0.2 + 1e-6


@pytest.mark.parametrize(("field", "value"), [("levels", 1), ("filters", 0), ("dropout", 1.0)])
def test_senseless_settings_are_refused(field, value):
    with pytest.raises(DefenseError, match=rf"PD\.{field} must be at least"):
        PD(**{field: value})


@pytest.mark.long
def test_one_step_at_the_authors_size():
    pd = defenses.preset("pd", "cifar10")
    model = pd.build(nnx.Rngs(0), 3)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x = make_images(rows=1, shape=(8, 8, 3))

    @jax.jit
    def loss(params):
        return bits_objective(nnx.merge(graph, params, rest), x, jnp.zeros(1, int), jax.random.key(0))

    before, gradient = jax.jit(jax.value_and_grad(loss))(params)
    after = loss(jax.tree.map(lambda w, g: w - 1e-2 * g, params, gradient))
    assert np.isfinite(before) and float(after) < float(before)

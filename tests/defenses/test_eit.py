"""EIT: what the network sees, how it is trained, and what an adaptive attacker differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from behaviour import call, check_attacks, check_expectation, check_rows, gradient_of
from conftest import make_linear
from few import asked_of_training, base, digits, few  # noqa: F401

from deepsec_jax import defenses
from deepsec_jax.data import Split
from deepsec_jax.defenses import EIT, DefenseError
from deepsec_jax.defenses.transformed import AccuracyThrough, LossThrough, Transformed
from deepsec_jax.randomness import first_keys, one_per_row
from deepsec_jax.training import accuracy, cross_entropy
from deepsec_jax.transforms import crop_resize, jpeg, kept_pixels, to_levels, tv_minimised

SMALL = EIT(crop=7, sweeps=5)
NONE = EIT(crop=0, sweeps=0, quality=0, bits=0)


def around(network, eit=SMALL):
    return Transformed(network, eit.transforms(), first_keys())


@jax.jit
def transformed(transforms, x, keys):
    return transforms(x, keys)


@pytest.fixture(scope="module")
def x(digits):
    return jnp.asarray(digits.test.images[:6])


@pytest.fixture(scope="module")
def labels(digits):
    return jnp.asarray(digits.test.labels[:6])


def test_without_transforms_it_is_the_raw_model(x):
    network = make_linear((8, 8, 1), 10)
    assert np.array_equal(call(around(network, NONE), x), call(network, x))
    assert not np.array_equal(call(around(network, NONE.replace(bits=4)), x), call(network, x))  # planted
    assert np.allclose(call(NONE.surrogate(around(network, NONE)), x), call(network, x), rtol=1e-5)


@jax.jit
def by_hand(x, keys):
    """Crop, total variation, JPEG, bits; and the last two the other way round."""
    both = jax.vmap(jax.random.split)(keys)
    kept = kept_pixels(both[:, 1], (8, 8), 0.5)
    smooth = tv_minimised(crop_resize(x, both[:, 0], 7), kept, 0.03, sweeps=5)
    return to_levels(jpeg(smooth, 85), 4), jpeg(to_levels(smooth, 4), 85)


def test_the_papers_order_and_sixteen_levels(x):
    keys = one_per_row(first_keys(), 6)
    seen = np.asarray(transformed(SMALL.transforms(), x, keys))
    ours, other = by_hand(x, keys)
    assert np.array_equal(seen, ours)
    assert not np.array_equal(seen, other)  # planted
    assert np.allclose(seen * 15, np.round(seen * 15), atol=1e-5) and len(np.unique(seen)) > 4


def test_jpeg_keeps_colours_at_half_their_size_as_pillow_does():
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32))
    seen = transformed(NONE.replace(quality=85).transforms(), x, one_per_row(first_keys(), 3))
    assert np.array_equal(seen, jax.jit(lambda x: jpeg(x, 85, subsampling="4:2:0"))(x))
    assert not np.allclose(seen, jax.jit(lambda x: jpeg(x, 85))(x), atol=0.02)  # planted: colours in full


@pytest.mark.long  # the wrapper's are in test_rt, the transforms' in tests/transforms
def test_rows(x):
    check_rows(around(make_linear((8, 8, 1), 10)), x, exact=False)


def test_under_attack(x, labels, compiles):
    classifiers = [around(make_linear((8, 8, 1), 10, seed=seed)) for seed in (0, 1)]
    check_attacks(classifiers, [SMALL.surrogate(each) for each in classifiers], x, labels, compiles)


def test_the_surrogate_sees_the_same_images_and_differentiates_the_crop_only(x, labels):
    network, keys = make_linear((8, 8, 1), 10), one_per_row(first_keys(), 6)
    deployed, straight = around(network), around(network, SMALL)
    straight = straight.replace(transform=straight.transform.replace(straight=True))
    assert np.allclose(call(straight, x), call(deployed, x), atol=1e-4)
    at_label = jax.nn.one_hot(labels, 10)
    cropped = jax.vmap(jax.random.split)(keys)[:, 0]
    through_crop = jax.grad(lambda x: (at_label * network(crop_resize(x, cropped, 7))).sum())
    assert np.allclose(gradient_of(straight, x, labels), jax.jit(through_crop)(x), atol=1e-4)
    assert not np.any(gradient_of(deployed, x, labels))  # planted: without it there is nothing to follow


def test_the_surrogate_is_the_expectation(x):
    deployed = around(make_linear((8, 8, 1), 10))
    check_expectation(deployed, SMALL.surrogate(deployed), x)
    with pytest.raises(AssertionError):
        check_expectation(deployed, deployed, x)  # planted: one draw


def test_the_epoch_is_chosen_behind_the_transforms(base, digits, digits_model, monkeypatch):
    (asked,) = asked_of_training(SMALL, base, digits, monkeypatch)
    model, images, labels = digits_model
    right = Split(np.asarray(images), np.asarray(labels))
    expected = AccuracyThrough(SMALL.transforms())(model, right)
    assert asked["score"](model, right) == asked["tested"]["test_accuracy"](model, right) == expected < 1.0
    assert accuracy(model, right) == 1.0  # planted: on plain images it is another figure


def test_the_loss_is_of_images_transformed_anew_in_every_step(x, labels, tiny_cnn):
    loss = jax.jit(lambda key: LossThrough(SMALL.transforms())(tiny_cnn, x, labels, key))
    keys = jax.random.split(jax.random.key(2))
    seen = transformed(SMALL.transforms(), x, jax.random.split(keys[0], 6))
    ours = float(loss(jax.random.key(2)))
    assert np.isclose(ours, float(cross_entropy(tiny_cnn, seen, labels, keys[1])), rtol=1e-5)
    assert not np.isclose(ours, float(loss(jax.random.key(3))), rtol=1e-5)  # planted: another step's images


@pytest.mark.long  # the parts of it are in test_protocol
def test_fitted_it_is_judged_behind_its_transforms_and_comes_back(base, digits, tmp_path, x):
    eit, card = few("eit"), {"name": "eit", "preset": "small", "base": "tests"}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
        made = defenses.fit_into(tmp_path / "eit", eit, base, digits, key=jax.random.key(1), card=card)
    network = made.classifier.model
    seen = AccuracyThrough(eit.transforms())(network, digits.test)
    assert made.saved.figures["test_accuracy"] == seen
    again = defenses.load_defended(tmp_path / "eit")
    assert again.defense == eit and np.array_equal(again.classifier(x), made.classifier(x))
    assert not np.allclose(again.classifier(x), network(x))  # planted: the network alone is another model


@pytest.mark.parametrize("crop", [9, 28])
def test_a_crop_larger_than_the_image_is_refused(crop, base, digits):
    with pytest.raises(DefenseError, match=rf"EIT\.crop = {crop} does not fit digits") as refused:
        few("eit").replace(crop=crop).fit(base, digits, key=jax.random.key(0))
    assert len(str(refused.value).splitlines()) == 1

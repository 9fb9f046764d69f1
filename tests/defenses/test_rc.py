"""RC: votes over a hypercube, the search for its radius, and the surrogate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from behaviour import call, check_attacks, check_rows, gradient_of, keys
from conftest import Linear, make_linear
from few import base, digits  # noqa: F401
from mute import Halting

from deepsec_jax import data, defenses
from deepsec_jax.defenses import RC, Base, DefenseError
from deepsec_jax.defenses import rc as rc_module
from deepsec_jax.defenses.rc import RegionVotes, search_radius
from deepsec_jax.model_traits import gives_confidences
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import first_keys
from deepsec_jax.training import save_model
from deepsec_jax.transforms import point_in_cube

SMALL = RC(radius=0.3, points=25)


def votes(seed=0, **settings):
    return RegionVotes(make_linear((8, 8, 1), 10, seed=seed), 0.3, first_keys(), 25).replace(**settings)


@pytest.fixture(scope="module")
def x(digits):
    return jnp.asarray(digits.test.images[:6])


def test_radius_0_is_the_raw_model(digits, x):
    bare = Base(None, None, make_linear((8, 8, 1), 10))
    raw = jax.nn.one_hot(bare.trained(x).argmax(-1), 10)
    model = RC(radius=0.0, points=25).fit(bare, digits, key=jax.random.key(0))
    assert np.array_equal(call(model, x), raw)
    wide = RC(radius=0.5, points=25).fit(bare, digits, key=jax.random.key(0))
    assert not np.array_equal(call(wide, x), raw)  # planted


def test_votes_by_hand_and_whatever_is_seen_at_once(x, monkeypatch):
    model = votes(keys=keys(6))
    counts = np.zeros((6, 10))

    @jax.jit
    def one(number):
        of_row = jax.vmap(jax.random.fold_in, in_axes=(0, None))(model.keys, number)
        return model.model(point_in_cube(x, of_row, 0.3)).argmax(-1)

    for number in range(25):
        counts[np.arange(6), np.asarray(one(number))] += 1
    assert (counts.max(1) < 25).any()  # they do not all agree
    for at_once in (1000, 42):  # all together, or 7 a time with 3 too many in the last
        monkeypatch.setattr(rc_module, "AT_ONCE", at_once)
        shares = jax.jit(lambda model, x: model(x))(model, x)  # afresh: AT_ONCE is read while tracing
        assert np.allclose(shares * 25, counts, atol=1e-4)
    assert not np.allclose(call(votes(keys=keys(6, 1)), x) * 25, counts)  # planted: other points


def test_a_point_without_an_answer_has_no_vote(x):
    """Where no point has one the model gives no answer: class 0 would win by the NaN's argmax."""
    model = votes(keys=keys(6))
    silent = Halting(model.model, float(np.median(np.asarray(x).mean(axis=(1, 2, 3)))))
    cast = np.zeros((6, 10))
    for number in range(25):
        of_row = jax.vmap(jax.random.fold_in, in_axes=(0, None))(model.keys, number)
        logits = np.asarray(call(silent, point_in_cube(x, of_row, 0.3)))
        rows = np.flatnonzero(~np.isnan(logits).any(axis=1))
        cast[rows, logits[rows].argmax(axis=1)] += 1
    some = cast.sum(axis=1)
    assert ((some > 0) & (some < 25)).any()
    shares = np.asarray(call(model.replace(model=silent), x))
    np.testing.assert_allclose(shares[some > 0], cast[some > 0] / some[some > 0, None], atol=1e-6)
    none = np.asarray(call(model.replace(model=Halting(model.model, -1.0)), x))
    assert np.isnan(none).all()


def test_shares_are_the_probabilities_of_the_cube():
    # Class 0 where the first of two pixels is above 0.5: of points around 0.6, at radius 0.3, two thirds.
    model = Linear(jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([-0.5, 0.0]))
    x = jnp.full((40, 1, 2, 1), 0.6)
    shares = call(RegionVotes(model, 0.3, keys(40), 500), x)
    assert np.allclose(shares.sum(1), 1) and abs(float(shares[:, 0].mean()) - 2 / 3) < 0.015
    half = call(RegionVotes(model, 0.15, keys(40), 500), x)
    assert abs(float(half[:, 0].mean()) - 2 / 3) > 0.1  # planted: the radius taken for the side


def test_rows(x):
    check_rows(votes(), x)


def test_under_attack(digits, x, compiles):
    labels = jnp.asarray(digits.test.labels[:6])
    classifiers = [votes(seed) for seed in (0, 1)]
    check_attacks(classifiers, [SMALL.surrogate(each) for each in classifiers], x, labels, compiles)
    assert not np.any(gradient_of(classifiers[0], x, labels))  # votes lead nowhere


def test_the_surrogate_nears_the_mean_logits_of_the_cube():
    # Away from the box's ends the mean over the cube of a linear model is the model.
    x = jnp.full((4, 8, 8, 1), 0.5)
    model = votes(keys=keys(4))
    off = np.asarray(call(SMALL.surrogate(model), x) - model.model(x)).std()
    one_point = np.asarray(model.model(point_in_cube(x, keys(4), 0.3)) - model.model(x)).std()
    assert off < one_point / 3  # 1 / sqrt(30) of it


def test_votes_are_marked_as_no_confidences():
    assert votes().confidences is False and not gives_confidences(votes())


class Band(Struct):
    """Class 0 within ``width`` of 0.5 in the first pixel, else class 1."""

    width: float | jax.Array

    def __call__(self, x):
        inside = self.width - jnp.abs(x[:, 0, 0, 0] - 0.5)
        return jnp.stack([inside, -inside], axis=-1)


@pytest.mark.parametrize(("width", "radius"), [(0.0125, 0.02), (0.0075, 0.01), (0.004, 0.0)])
def test_the_radius_is_the_last_that_costs_at_most_a_point(width, radius):
    # Of points around 0.5 more than half leave the band once the radius exceeds twice its width.
    split = data.Split(np.full((10, 1, 2, 1), 0.5, np.float32), np.zeros(10, np.int32))
    found = search_radius(Band(width), split, points=1000, key=jax.random.key(0))
    assert found["radius"] == radius and found["undefended"] == 1.0
    assert found["search"][-1] < 0.99 and all(seen >= 0.99 for seen in found["search"][:-1])


def test_a_radius_that_costs_nothing_ends_at_the_box():
    split = data.Split(np.full((4, 1, 2, 1), 0.5, np.float32), np.zeros(4, np.int32))
    assert search_radius(Band(2.0), split, points=2, key=jax.random.key(0), step=0.25)["radius"] == 1.0


def test_a_folder_keeps_the_radius_that_was_found(base, digits, tmp_path, x, monkeypatch):
    rc, card = RC(points=5, search=True, images=20), {"name": "rc@search", "preset": "paper", "base": "tests"}
    monkeypatch.setattr(rc_module, "search_radius", lambda *_, **__: {"radius": 0.07, "search": [1.0, 0.9]})
    made = defenses.fit_into(tmp_path / "rc", rc, base, digits, key=jax.random.key(0), card=card)
    assert made.classifier.radius == 0.07 and made.saved.figures["test_images"] == 40
    monkeypatch.setattr(rc_module, "search_radius", None)  # a finished folder is not searched again
    again = defenses.fit_into(tmp_path / "rc", rc, base, digits, key=jax.random.key(0), card=card)
    assert again.classifier.radius == 0.07 and np.array_equal(
        call(again.classifier, x), call(made.classifier, x)
    )


def test_search_asks_training_images(base, digits, monkeypatch):
    asked = []
    monkeypatch.setattr(
        rc_module, "search_radius", lambda model, split, **_: asked.append(split) or {"radius": 0.1}
    )
    RC(points=5, search=True, images=20).fit(base, digits, key=jax.random.key(0))
    train = {image.tobytes() for image in digits.train.images}
    assert len(asked[0]) == 20 and {image.tobytes() for image in asked[0].images} <= train


def test_a_folder_of_another_model_is_refused(base, digits, tmp_path):
    save_model(
        tmp_path / "other", base.trained, base.recipe, image_shape=(8, 8, 1), classes=10, figures={}
    )  # fmt: skip
    with pytest.raises(DefenseError, match="holds a model without a radius"):
        SMALL.fit(base, digits, key=jax.random.key(0), folder=tmp_path / "other")


def test_a_bare_function_votes_as_well(digits, x):
    bare = Base(None, None, make_linear((8, 8, 1), 10))
    assert call(SMALL.fit(bare, digits, key=jax.random.key(0)), x).shape == (6, 10)
    for name in ("points", "images"):
        with pytest.raises(ValueError, match=f"RC.{name} must be an integer of at least 1, got 0"):
            RC(**{name: 0})

"""Square against closed forms, the authors' schedule, and a model whose gradient says nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear
from scipy.stats import chisquare

from deepsec_jax.attacks import PGD, FixedImages, Square, count_calls
from deepsec_jax.attacks.losses import max_margin
from deepsec_jax.attacks.pyramids import _pyramid, first_pyramids, moved_mass
from deepsec_jax.attacks.square import _side, _square
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import example_keys

KEY = jax.random.key(3)


class Rounded(Struct):
    """A model behind one bit of depth: constant almost everywhere, so without a gradient."""

    model: Linear

    def __call__(self, x):
        return self.model(jnp.round(x))


class Through(Struct):
    """The rounded model with the gradient of the model behind it, or minus that."""

    model: Rounded
    sign: float

    def __call__(self, x):
        smooth = self.sign * self.model.model(x)
        return jax.lax.stop_gradient(self.model(x) - smooth) + smooth


def test_in_l2_the_search_climbs_towards_the_best_point_of_the_sphere():
    """On a linear model the largest margin in the L2 ball is known; random search must come near it."""
    weights = jax.random.normal(jax.random.key(0), (100, 2))
    model = Linear(weights, jnp.array([100.0, 0.0]))  # no change within eps reaches class 1
    x = 0.4 + 0.2 * make_images(3, (10, 10, 1))
    up = np.asarray(weights[:, 1] - weights[:, 0])
    best = 0.5 * np.linalg.norm(up)

    def gain(queries):
        attack = Square(eps=0.5, norm="l2", queries=queries)
        delta = np.asarray(attack(model, x, jnp.zeros(3, jnp.int32), key=KEY) - x, np.float64).reshape(3, 100)
        assert (np.linalg.norm(delta, axis=1) <= 0.5 + 1e-6).all()
        return delta @ up

    assert (gain(600) > 0.5 * best).all() and (gain(600) <= best).all()
    assert (gain(1) < 0.4 * best).all()


def test_pyramids_are_the_authors():
    """A square of 5: two rows of the one pyramid, three of the other, upside down, rings of 1/k^2 around."""
    square = np.asarray(_pyramid(jnp.arange(5)[:, None], jnp.arange(5)[None, :], jnp.asarray(5), 9))
    ring = np.cumsum([1 / 9, 1 / 4, 1.0])  # outermost first
    np.testing.assert_allclose(square[1], ring[[0, 1, 2, 1, 0]], rtol=1e-5)
    np.testing.assert_allclose(square[0], ring[[0, 1, 1, 1, 0]], rtol=1e-5)
    np.testing.assert_allclose(square[3], -ring[[0, 1, 2, 1, 0]], rtol=1e-5)
    np.testing.assert_allclose(square[2], square[4], rtol=1e-5)
    change = np.asarray(first_pyramids(example_keys(KEY, 4), (4, 28, 28, 3)))
    np.testing.assert_allclose(np.linalg.norm(change.reshape(4, -1), axis=1), 1.0, rtol=1e-5)
    assert (change[:, 1:26, 1:26] != 0).all() and not change[:, 0].any()  # five squares of five


def test_an_unreachable_goal_ends_at_the_best_corner_of_the_ball():
    """On a linear model each pixel decides by itself: x - eps sign(w_y - w_j), clipped, is best."""
    weights = jax.random.normal(jax.random.key(0), (12, 2))
    model = Linear(weights, jnp.array([100.0, 0.0]))  # no change within eps reaches class 1
    x = make_images(3, (3, 4, 1))
    x_adv = Square(eps=0.2, queries=600)(model, x, jnp.zeros(3, jnp.int32), key=KEY)
    towards_one = np.sign(np.asarray(weights[:, 1] - weights[:, 0])).reshape(1, 3, 4, 1)
    best = np.clip(np.asarray(x) + 0.2 * towards_one, 0, 1)
    np.testing.assert_allclose(x_adv, best, atol=1e-7)


@pytest.mark.parametrize(
    ("asked", "share"),
    [(0, 0.8), (10, 0.8), (11, 0.4), (50, 0.4), (51, 0.2), (201, 0.1), (501, 0.05), (1001, 0.025),
     (2001, 0.0125), (4001, 0.00625), (6001, 0.003125), (8001, 0.0015625), (9999, 0.0015625)],
)  # fmt: skip
def test_squares_shrink_as_the_authors_do(asked, share):
    """The authors' p_selection for 10,000 queries; half as many run through it twice as fast."""
    side = max(1, round((share * 28 * 28) ** 0.5))
    assert int(_side(Square(queries=10_000), jnp.array([asked]), 28, 28)[0]) == side
    if asked % 2 == 0:
        assert int(_side(Square(queries=5_000), jnp.array([asked // 2]), 28, 28)[0]) == side


def test_squares_lie_anywhere_and_signs_are_fair():
    """Counts of every side and corner, of signs and of whom to follow, against the chances: chi-square."""
    draw = jax.vmap(partial(_square, Square(shrinking=False), (1, 3, 5, 2)), in_axes=(0, None))
    inside, signs, follows = draw(jax.random.split(KEY, 6000), jnp.array(2))
    inside = np.asarray(inside)[..., 0]
    corners = inside.reshape(6000, -1).argmax(axis=1)
    wide = inside.sum(axis=(1, 2)) == 4
    assert set(inside.sum(axis=(1, 2))) == {1, 4}
    places = [np.unique(corners[chosen], return_counts=True)[1] for chosen in (wide, ~wide)]
    assert [len(each) for each in places] == [2 * 4, 3 * 5]
    pairs = np.asarray(signs).reshape(6000, 2) @ [2, 1]
    for counts in (*places, *(np.unique(each, return_counts=True)[1] for each in (wide, pairs, follows))):
        assert chisquare(counts).pvalue > 1e-4
    assert chisquare(np.unique(pairs + 2 * (pairs == 1), return_counts=True)[1]).pvalue < 1e-4  # planted


def test_a_row_ends_with_its_first_success():
    x, model = make_images(8), make_linear()
    wrong = jnp.argmin(model(x), axis=-1).astype(jnp.int32)  # every start is a success
    found = count_calls(Square(eps=0.01, queries=50), model, x, wrong, key=KEY)
    np.testing.assert_array_equal(found.forwards, np.ones(8))
    np.testing.assert_array_equal(found.gradients, np.zeros(8))
    assert np.abs(np.asarray(found.x) - x).max() <= 0.01 + 1e-6


def test_it_goes_on_after_its_success_where_it_is_told_to():
    """To the best corner of the ball on a linear model, as in closed form; stopping ends short of it."""
    weights = jax.random.normal(jax.random.key(0), (12, 2))
    model, x = Linear(weights, jnp.zeros(2)), make_images(6, (3, 4, 1))
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    across = np.sign(np.asarray(weights[:, 1] - weights[:, 0])).reshape(1, 3, 4, 1)
    best = np.clip(np.asarray(x) + np.where(labels == 0, 0.2, -0.2).reshape(6, 1, 1, 1) * across, 0, 1)
    search = Square(eps=0.2, queries=600)
    on, short = (search.replace(stops=stops)(model, x, labels, key=KEY) for stops in (False, True))
    np.testing.assert_allclose(on, best, atol=1e-7)
    fooled = [np.asarray(jnp.argmax(model(found), axis=-1) != labels) for found in (on, short)]
    np.testing.assert_array_equal(*fooled)
    assert fooled[0].any() and (np.abs(short - best).max(axis=(1, 2, 3))[fooled[0]] > 0.1).all()


def test_it_breaks_what_has_no_gradient():
    model, x = Rounded(make_linear()), make_images(16)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    climbed = PGD(eps=0.3, step_size=0.1, steps=60)(model, x, labels, key=KEY)
    searched = Square(eps=0.3, queries=300)(model, x, labels, key=KEY)
    still = [float(jnp.mean(jnp.argmax(model(found), axis=-1) == labels)) for found in (climbed, searched)]
    assert still[1] <= 0.1 < 0.5 <= still[0], still  # PGD, which cannot climb, is the planted violation


def test_it_goes_on_where_another_attack_has_ended():
    """From PGD's images the loss only rises, row by row, and with one query they come back."""
    model, x = Linear(make_linear().weights, jnp.array([99.0, 0.0, 0.0])), make_images(6)
    labels = jnp.zeros(6, jnp.int32)
    pgd, keys = PGD(eps=0.2, step_size=0.02, steps=3), example_keys(KEY, 6)
    begun, ended = (
        Square(eps=0.2, queries=queries, start=pgd)(model, x, labels, key=KEY) for queries in (1, 100)
    )
    own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 1)
    np.testing.assert_array_equal(begun, pgd(model, x, labels, key=own))
    rise = max_margin(model(ended), labels) - max_margin(model(begun), labels)
    assert (rise >= 0).all() and (rise > 0).any()
    given = Square(eps=0.2, queries=1, start=FixedImages(ended))(model, x, labels, key=KEY)
    np.testing.assert_array_equal(given, ended)
    with pytest.raises(ValueError, match="one per row"):
        FixedImages(ended[:2])(model, x, labels)
    with pytest.raises(ValueError, match="two goals"):
        Square(start=pgd.replace(targeted=True))(model, x, labels, key=KEY)


def test_a_guided_search_keeps_only_what_the_model_shows():
    """Signs of a gradient that points the wrong way are asked and refused; right ones help."""
    right = Rounded(make_linear())
    model, x = right, make_images(16)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    search = Square(eps=0.3, queries=12, share=0.3, guided=True, shrinking=False)
    share = {}
    for name, sign in (("along", 1.0), ("against", -1.0)):
        surrogate = Through(right, sign)
        x_adv = search(surrogate, x, labels, key=KEY)
        share[name] = float(jnp.mean(jnp.argmax(model(x_adv), axis=-1) == labels))
    assert share["along"] < share["against"] < 1.0, share
    found = count_calls(search, Through(right, 1.0), x, labels, key=KEY)
    assert (found.gradients >= 1).all() and not found.forwards.any()


def test_targets_are_reached():
    x, model = make_images(8), make_linear()
    targets = (jnp.argmax(model(x), axis=-1).astype(jnp.int32) + 1) % 3
    x_adv = Square(eps=0.5, queries=200, targeted=True)(model, x, targets, key=KEY)
    assert float(jnp.mean(jnp.argmax(model(x_adv), axis=-1) == targets)) >= 0.9


def test_an_l2_proposal_takes_one_squares_change_away_and_keeps_the_length():
    """Of a change without a zero, the square that loses is zero after it, but where the other one lies."""
    delta = 0.5 + make_images(rows=60, shape=(9, 9, 2))
    eps = 3.0
    delta = delta * (eps / jnp.linalg.norm(delta.reshape(60, -1), axis=1))[:, None, None, None]
    moved = np.asarray(moved_mass(jax.random.split(jax.random.key(0), 60), delta, jnp.full(60, 3), eps))
    np.testing.assert_allclose(np.linalg.norm(moved.reshape(60, -1), axis=1), eps, rtol=1e-5)
    zeros = (moved == 0).all(axis=3).reshape(60, -1).sum(axis=1)
    assert zeros.max() == 9 and (zeros > 0).mean() > 0.9
    scale = moved / np.asarray(delta)
    same = np.isclose(scale, np.median(scale, axis=(1, 2, 3), keepdims=True), rtol=1e-4).all(axis=3)
    assert (same.reshape(60, -1).sum(axis=1) >= 81 - 18).all()  # all others only keep to the length

"""The cascade over a whole data set: what falls by which attack, what it costs, whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear

from deepsec_jax import evaluation
from deepsec_jax.attacks import APGD, PGD, AutoAttack, Square, Transfer
from deepsec_jax.evaluation.cascade import ALREADY, STANDS, FromBest, _parts, run_cascade
from deepsec_jax.pytree import Struct, static

KEY = jax.random.key(2)
MODEL = make_linear(classes=2, seed=4)
X = np.asarray(0.4 + 0.2 * make_images(rows=20, seed=5))
LABELS = np.asarray(MODEL(X)).argmax(1).astype(np.int32)
LABELS[:2] = 1 - LABELS[:2]  # wrong already
GAP = np.abs(np.asarray(MODEL(X), np.float64) @ [1, -1])
DISTANCE = GAP / np.abs(np.asarray(MODEL.weights, np.float64) @ [1, -1]).sum()
EPS = float(np.median(DISTANCE))


@pytest.mark.parametrize("version", ["standard", "fast"])
def test_of_a_linear_model_exactly_the_images_within_eps_fall(version):
    """The closed form is DISTANCE; the box has room."""
    found = evaluation.autoattack(MODEL, X, LABELS, eps=EPS, version=version, key=KEY, batch_size=8)
    clear = np.abs(DISTANCE - EPS) > 1e-5
    falls = (DISTANCE < EPS) | (np.arange(20) < 2)
    np.testing.assert_array_equal((found.fooled == 1)[clear], falls[clear])
    assert (found.by[:2] == ALREADY).all() and np.array_equal(found.x_adv[:2], X[:2])
    assert np.array_equal(found.by == STANDS, found.fooled < 1)
    assert np.abs(found.x_adv - X).max() <= EPS + 1e-6
    assert found.robust == pytest.approx(np.mean(found.fooled < 1))
    predicted = np.asarray(MODEL(found.x_adv)).argmax(1)
    np.testing.assert_array_equal(predicted != LABELS, found.fooled == 1)


def test_each_image_is_charged_for_its_own_attacks_until_it_falls():
    found = evaluation.autoattack(MODEL, X, LABELS, eps=EPS, version="fast", key=KEY, batch_size=8)
    np.testing.assert_array_equal(found.gradients[:2], 0)
    stands = found.by == STANDS
    np.testing.assert_array_equal(found.gradients[stands], 101 + 2 + 101)  # of two classes one is wrong
    np.testing.assert_array_equal(found.forwards[stands], 1 + 5000)
    first = found.by == 0
    assert first.any() and (found.gradients[first] < 101).all() and (found.forwards[first] == 0).all()


def test_neither_the_batch_size_nor_the_neighbours_matter():
    attacks = [
        Transfer(APGD(eps=EPS, steps=2), MODEL),
        PGD(eps=EPS, step_size=EPS, steps=3),
        Square(eps=EPS, queries=20),
        FromBest(Transfer(Square(eps=EPS, queries=20, guided=True), MODEL)),
        FromBest(Square(eps=EPS, queries=20, share=0.1)),
    ]
    whole = run_cascade(attacks, MODEL, X, LABELS, key=KEY, batch_size=20)
    for size in (3, 7):
        cut = run_cascade(attacks, MODEL, X, LABELS, key=KEY, batch_size=size)
        for one, other in zip(whole.__dict__.values(), cut.__dict__.values(), strict=True):
            if isinstance(one, np.ndarray):
                np.testing.assert_allclose(one, other, atol=1e-6)
    other = run_cascade(attacks, MODEL, X, LABELS, key=jax.random.key(3), batch_size=20)
    assert (other.x_adv != whole.x_adv).any(), "planted: another key is seen"


def test_one_lucky_draw_brings_nobody_down():
    """AutoAttack's ``rand`` filters by one stochastic pass; here all ten draws must be wrong."""
    noisy = Noisy(MODEL, jax.random.split(KEY, 1), 1.0)
    found = evaluation.autoattack(noisy, X, LABELS, eps=EPS, version="rand", key=KEY, batch_size=8)
    between = (found.fooled > 0) & (found.fooled < 1)
    assert between.any() and (found.by[between] == STANDS).all()


class Recorder(Struct):
    """Moves nothing, and notes which labels it was given under which keys."""

    seen: list = static(None)

    def targets(self, model, x, labels, *, key=None):
        return None

    def __call__(self, model, x, labels, *, key=None):
        self.seen.append((np.asarray(labels), np.asarray(jax.random.key_data(key))))
        return jnp.asarray(x)


def test_no_two_attacks_see_one_key_and_a_weaker_image_is_not_kept():
    seen: list = []
    strong = PGD(eps=EPS / 2, step_size=EPS, steps=1)
    made = run_cascade([strong, Recorder(seen), Recorder(seen)], MODEL, X, LABELS, key=KEY, batch_size=32)
    (first, keys), (second, others) = seen
    np.testing.assert_array_equal(first, second)
    stands = made.by == STANDS
    np.testing.assert_array_equal(first[: stands.sum()], LABELS[stands])
    assert (
        len({row.tobytes() for row in [*keys[: stands.sum()], *others[: stands.sum()]]}) == 2 * stands.sum()
    )
    alone = run_cascade([strong], MODEL, X, LABELS, key=KEY, batch_size=32)
    np.testing.assert_array_equal(made.x_adv, alone.x_adv)
    assert (made.x_adv[stands] != X[stands]).any()


def test_a_search_starts_at_the_best_image_so_far():
    """One query of a search is its start; a margin that was reached is not lost."""
    ascent, still = PGD(eps=EPS / 2, step_size=EPS, steps=3), Square(eps=EPS / 2, queries=1)
    alone = run_cascade([ascent], MODEL, X, LABELS, key=KEY, batch_size=8)
    both = run_cascade([ascent, FromBest(still)], MODEL, X, LABELS, key=KEY, batch_size=8)
    np.testing.assert_array_equal(both.x_adv, alone.x_adv)
    (seen,) = [part for _, part in _parts(FromBest(still), alone.x_adv[:5], 8)]
    np.testing.assert_array_equal(seen.start(MODEL, X[:5], LABELS[:5]), alone.x_adv[:5])
    (own,) = [part for _, part in _parts(still, alone.x_adv[:5], 8)]
    assert own.start is None, "planted: without the mark it starts at an image of its own"


def test_progress_adds_up_to_the_images():
    told: list[int] = []
    attacks = AutoAttack(eps=EPS, steps=5, queries=20).members(2)
    run_cascade(attacks, MODEL, X, LABELS, key=KEY, batch_size=8, on_batch=told.append)
    assert sum(told) == len(X) and min(told) > 0


class Silent(Struct):
    """No answer to anything."""

    def __call__(self, x):
        return jnp.full((len(x), 2), jnp.nan)


def test_silence_is_no_fall_and_no_image_means_no_work():
    found = run_cascade([APGD(eps=EPS, steps=2)], Silent(), X, LABELS, key=KEY, batch_size=8)
    assert (found.fooled == 0).all() and np.array_equal(found.x_adv, X)
    assert len(run_cascade([APGD()], MODEL, X[:0], LABELS[:0], key=KEY, batch_size=8).by) == 0

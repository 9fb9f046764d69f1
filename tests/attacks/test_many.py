"""ManyRestarts: the result of one restart after the other, whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images

from deepsec_jax.attacks import APGD, PGD, ManyRestarts, count_calls
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct

KEY = jax.random.key(5)


class Spikes(Struct):
    """Class 1 wins in a cone of directions around the grey image; each image says how wide a one.

    Attributes:
        direction: of the cone, [H - 1, W, C], of unit length; the first row of pixels says to which cosine it
            must be met.
    """

    direction: jax.Array

    def __call__(self, x):
        change = x[:, 1:] - 0.5
        size = jnp.sqrt(jnp.sum(change**2, axis=(1, 2, 3)) + 1e-12)
        cosine = jnp.sum(change * self.direction[None], axis=(1, 2, 3)) / size
        return jnp.stack([jnp.mean(x[:, 0], axis=(1, 2)), cosine], axis=1)


def problem(levels):
    direction = jax.random.normal(jax.random.key(1), (2, 3, 1))
    model = Spikes(direction / jnp.linalg.norm(direction))
    x = jnp.full((len(levels), 3, 3, 1), 0.5).at[:, 0].set(jnp.asarray(levels)[:, None, None])
    return model, x, jnp.zeros(len(levels), jnp.int32)


def guess(eps=0.1):
    """A random point, and a step too small to lead anywhere."""
    return PGD(eps=eps, step_size=1e-6, steps=1)


LEVELS = [0.1, 0.5, 0.7, 0.8, 1.0]


def by_hand(model, x, labels, n):
    """Return which restart of each row is the first to succeed, n for none, by single restarts."""
    first = np.full(len(x), n)
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(len(x)))
    streams = jax.vmap(jax.random.split)(keys)[:, 0]
    for number in range(n):
        own = keys if number == 0 else jax.vmap(lambda k, i=number: jax.random.fold_in(k, i))(streams)
        found = np.asarray(judge(model, x, guess()(model, x, labels, key=own), labels).success) == 1
        first = np.where((first == n) & found, number, first)
    return first


@pytest.mark.parametrize("lanes", [1, 3])
def test_it_is_one_restart_after_the_other(lanes):
    model, x, labels = problem(LEVELS)
    n = 40
    first = by_hand(model, x, labels, n)
    assert len(set(first.tolist())) >= 4 and first[-1] == n, "the rows fall at different times, one never"
    many = ManyRestarts(guess(), n=n, lanes=lanes, near=0.0)
    spent = count_calls(many, model, x, labels, key=KEY)
    fooled = np.asarray(judge(model, x, spent.x, labels).success) == 1
    np.testing.assert_array_equal(fooled, first < n)
    np.testing.assert_array_equal(spent.forwards, np.minimum(first + 1, n))  # PGD counts none; one to judge


def test_no_row_depends_on_its_batch_nor_on_the_lanes():
    model, x, labels = problem(LEVELS)
    keys = jax.random.split(KEY, 5)
    many = ManyRestarts(APGD(eps=0.1, steps=2), n=7, probe=3)
    whole = many(model, x, labels, key=keys)
    for row in range(5):
        alone = many(model, x[row : row + 1], labels[:1], key=keys[row : row + 1])
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-6)
    np.testing.assert_allclose(many.replace(lanes=4)(model, x, labels, key=keys), whole, atol=1e-6)


def test_the_hopeless_leave_after_the_probe():
    """Row 0 falls, row 1 comes near, row 2 has no chance: its margin stays below -9."""
    model, x, labels = problem([0.2, 0.999, 0.999])

    class Held(Struct):
        inner: Spikes

        def __call__(self, x):
            held = (x[:, 0, 0, 0] > 0.9) & (x[:, 0, 1, 0] < 0.9)
            return self.inner(x).at[:, 0].add(jnp.where(held, 9.0, 0.0))

    x = x.at[2, 0, 1].set(0.5)
    many = ManyRestarts(guess(eps=0.01), n=50, probe=5, near=0.4)
    spent = np.asarray(count_calls(many, Held(model), x, labels, key=KEY).forwards)
    assert spent[0] < 50 and spent[1] == 50 and spent[2] == 5
    everyone = np.asarray(count_calls(many.replace(near=0.0), Held(model), x, labels, key=KEY).forwards)
    assert everyone[2] == 50, "planted: without the rule it goes on"


def test_what_never_falls_comes_back_with_the_largest_margin():
    model, x, labels = problem([1.0] * 3)
    few, more = (
        np.asarray(model(ManyRestarts(guess(), n=n, near=0.0)(model, x, labels, key=KEY))) @ [-1, 1]
        for n in (1, 30)
    )
    assert (more >= few).all() and (more > few).any()
    np.testing.assert_array_equal(
        ManyRestarts(guess(), n=1)(model, x, labels, key=KEY), guess()(model, x, labels, key=KEY)
    )


def test_eps_per_image_and_bad_counts():
    model, x, labels = problem(LEVELS)
    eps = np.array([0.0, 0.1, 0.1, 0.1, 0.0], np.float32)
    moved = np.asarray(ManyRestarts(guess(eps), n=9)(model, x, labels, key=KEY) - x)
    assert (np.abs(moved).max(axis=(1, 2, 3)) <= eps + 1e-6).all() and np.abs(moved[1:4]).max() > 0.05
    with pytest.raises(ValueError, match="lanes must be an integer"):
        ManyRestarts(guess(), lanes=0)
    with pytest.raises(ValueError, match="key"):
        ManyRestarts(guess())(model, make_images(2, (3, 3, 1)), labels[:2])

"""Basin hopping on a loss with known maxima, beside restarts, and its kicks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax.attacks import APGD, PGD, BasinHopping, count_calls, losses
from deepsec_jax.attacks.basinhopping import _chosen
from deepsec_jax.pytree import Struct

KEY = jax.random.key(3)
ATTACK = BasinHopping(eps=0.4, hops=150, steps=10)


class Waves(Struct):
    """Every pixel adds a wave with maxima of 0.25 at 0.2 and 0.5, and of 0.4 at 0.8.

    So a mean above 0.37 needs at least 13 of 16 pixels near 0.8.
    """

    bar: jax.Array

    def __call__(self, x):
        wave = 0.25 * jnp.cos(2.0 * jnp.pi * (x - 0.8) / 0.3) + jnp.where(x > 0.65, 0.15, 0.0)
        return jnp.stack([jnp.full(x.shape[0], self.bar), jnp.mean(wave, axis=(1, 2, 3))], axis=1)


def test_it_finds_the_highest_of_many_maxima_where_restarts_do_not():
    """A random start has a third of its pixels in the right basin; a kick mends some of the others."""
    model, x, labels = Waves(jnp.float32(0.37)), jnp.full((4, 4, 4, 1), 0.5), jnp.zeros(4, jnp.int32)
    found = count_calls(ATTACK, model, x, labels, key=KEY)
    margin = np.asarray(losses.max_margin(model(found.x), labels))
    assert (margin > 0).mean() >= 0.75 and np.abs(np.asarray(found.x) - 0.5).max() <= 0.4 + 1e-6
    assert (np.asarray(found.gradients)[margin > 0] < 1500).all(), "a row ends with its first success"
    restarts = APGD(eps=0.4, steps=9, restarts=150, loss="max_margin")(model, x, labels, key=KEY)
    assert (np.asarray(losses.max_margin(model(restarts), labels)) < 0).all(), "planted: only restarts"


def test_more_hops_are_never_worse_and_a_start_is_counted():
    model, x = make_linear(), make_images(rows=6)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    margins = []
    for hops in (1, 4):
        x_adv = BasinHopping(eps=0.01, hops=hops, steps=3)(model, x, labels, key=KEY)
        margins.append(np.asarray(losses.max_margin(model(x_adv), labels)))
    assert (margins[1] >= margins[0]).all() and (margins[1] > margins[0]).any()
    started = BasinHopping(eps=0.01, hops=4, steps=3, start=PGD(eps=0.01, step_size=0.005, steps=7))
    spent = count_calls(started, model, x, labels, key=KEY)
    np.testing.assert_array_equal(spent.gradients, 12 + 7.0 * np.ones(6))
    with pytest.raises(ValueError, match=r"BasinHopping\.start and BasinHopping\.targeted have two goals"):
        started.replace(targeted=True)(model, x, labels, key=KEY)


def test_a_change_in_l2_stays_on_the_ball():
    model, x = make_linear(), 0.5 * make_images(rows=6) + 0.25
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    x_adv = BasinHopping(eps=0.05, norm="l2", hops=4, steps=3)(model, x, labels, key=KEY)
    size = np.sqrt(np.sum((np.asarray(x_adv) - np.asarray(x)) ** 2, axis=(1, 2, 3)))
    assert (size <= 0.05 + 1e-6).all() and (size > 0.045).all()


def test_a_kick_is_a_window_or_a_share_of_the_pixels():
    drawn = jax.random.uniform(KEY, (2000, 5))
    masks = jax.vmap(lambda key, row: _chosen((12, 18), key, row))(jax.random.split(KEY, 2000), drawn)
    masks, drawn = np.asarray(masks)[..., 0], np.asarray(drawn)
    windows = drawn[:, 0] < 0.5
    for mask in masks[windows]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert 1 <= len(rows) == len(columns) <= 6 and mask.sum() == len(rows) ** 2
        assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
    shares = masks[~windows].mean(axis=(1, 2))
    assert shares.max() <= 0.65 and shares.min() <= 0.03 and 0.03 < np.median(shares) < 0.15
    assert masks[windows].any(axis=0).all(), "windows reach every pixel"

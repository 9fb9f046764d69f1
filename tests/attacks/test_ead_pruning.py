"""What EAD saves: changes that the image does not need, and runs that never leave the clean image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy

from deepsec_jax import attacks
from deepsec_jax.attacks import EAD
from deepsec_jax.attacks.ead import both_rules
from deepsec_jax.attacks.pruning import prune, shares
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)


def test_shares_are_running_sums_of_the_sorted_sizes():
    change = jnp.asarray([[0.4, -0.1, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0]]).reshape(2, 2, 2, 1)
    expected = [[0.5, 0.1, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(shares(change).reshape(2, 4), expected, atol=1e-6)


def enough(x_adv, rows):
    """Success is a sum of at least as much as the row's label says."""
    return jnp.sum(x_adv, axis=(1, 2, 3)) >= rows[0]


def test_the_smallest_changes_are_taken_back_as_long_as_the_rest_succeeds():
    x = jnp.zeros((3, 2, 2, 1))
    x_adv = jnp.broadcast_to(jnp.asarray([0.05, 0.1, 0.25, 0.6]).reshape(2, 2, 1), x.shape)
    rows = (jnp.asarray([0.8, 0.95, 0.8]), None, jnp.zeros(3, jnp.int32))
    found = jnp.asarray([True, True, False])
    pruned, forwards = jax.jit(lambda: prune(x, x_adv, found, enough, rows, 10))()
    expected = [[0, 0, 0.25, 0.6], [0, 0.1, 0.25, 0.6], [0.05, 0.1, 0.25, 0.6]]
    np.testing.assert_allclose(pruned.reshape(3, 4), expected)
    np.testing.assert_array_equal(forwards, [10, 10, 0])
    assert not enough(x_adv - 0.1, rows).all(), "planted: a trial that fails must not come back"


@pytest.mark.parametrize("rule", ["en", "l1"])
@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_pruning_only_brings_closer_what_still_succeeds(rule, confidence, linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    attack = EAD(rule=rule, confidence=confidence, c=0.1, steps=60, search_steps=4, beta=0.01)
    plain = attacks.count_calls(attack.replace(pruning=0), linear, images, labels)
    counted = attacks.count_calls(attack, linear, images, labels)
    change, before = np.asarray(counted.x - images), np.asarray(plain.x - images)
    assert ((change == before) | (change == 0)).all() and (change != before).any()
    moved = (before != 0).any(axis=(1, 2, 3))
    logits = np.asarray(linear(counted.x))
    own = logits[np.arange(8), labels]
    margin = np.where(np.eye(3, dtype=bool)[np.asarray(labels)], -np.inf, logits).max(axis=1) - own
    assert moved.any() and (margin[moved] >= confidence).all()
    np.testing.assert_array_equal(counted.gradients, plain.gradients)
    np.testing.assert_array_equal(counted.forwards, np.asarray(plain.forwards) + 10 * moved)


def test_a_randomised_model_is_pruned_under_fresh_draws(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    model = Noisy(linear, jax.random.split(KEY, 8))
    attack = EAD(c=0.1, steps=20, search_steps=3, beta=0.01)
    pruned, plain = (each(model, images, labels, key=KEY) for each in (attack, attack.replace(pruning=0)))
    assert (pruned != plain).any()
    np.testing.assert_array_equal(pruned, attack(model, images, labels, key=KEY))


def test_a_run_that_cannot_leave_the_clean_image_ends_at_once(linear, images):
    """c times the steepest slope times the step stays below beta: no entry moves, in no step."""
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    attack = EAD(c=1e-6, steps=100, search_steps=3, beta=0.01)
    counted = attacks.count_calls(attack, linear, images, labels)
    np.testing.assert_array_equal(counted.x, images)
    np.testing.assert_array_equal(counted.gradients, np.full(8, 3.0))
    moving = attacks.count_calls(attack.replace(beta=0.0), linear, images, labels)
    assert (np.asarray(moving.gradients) > 3).all(), "planted: with no threshold every entry moves"


def test_both_rules_are_pruned_each_by_itself(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    attack = EAD(c=0.1, steps=60, search_steps=4, beta=0.01)
    for x_adv in jax.jit(both_rules)(attack, linear, images, labels):
        moved = np.asarray(x_adv != images).any(axis=(1, 2, 3))
        assert moved.any() and (np.asarray(judge(linear, images, x_adv, labels).success) == moved).all()


@pytest.mark.parametrize("name", ["settle", "pruning"])
@pytest.mark.parametrize("value", [2.5, True, -1])
def test_settle_and_pruning_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=rf"EAD\.{name}"):
        EAD(**{name: value})


@pytest.mark.parametrize("search_steps", [pytest.param(1, marks=pytest.mark.long), 4])
def test_settling_spends_no_more_than_the_search_may(search_steps, linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    attack = EAD(c=0.1, steps=50, search_steps=search_steps, beta=0.01, abort_early=False, settle=20)
    counted = attacks.count_calls(attack, linear, images, labels)
    assert np.asarray(counted.gradients).max() <= 50 * search_steps
    settled, plain = (
        attacks.count_calls(
            attack.replace(abort_early=True, settle=settle, pruning=0), linear, images, labels
        )
        for settle in (20, 0)
    )
    more = np.asarray(settled.gradients) - np.asarray(plain.gradients)
    found = np.asarray(plain.x != images).any(axis=(1, 2, 3))
    left = 50 * search_steps - np.asarray(plain.gradients)
    most = np.where(found, np.minimum(20, left), 0)  # less where the row rests at the clean image
    assert (more <= most).all() and (more >= 0).all() and np.median(more - most) == 0

"""Attacks made of attacks: the same call, best of each row, nothing about particular attacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy

from attacks.checkers import violations
from deepsec_jax.attacks import BIM, FGSM, PGD, LeastLikely, MultiTarget, RandomTarget, Restarts, WorstCase
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)
TARGETED = PGD(eps=0.2, step_size=0.1, steps=3, targeted=True)
EVERY = [
    Restarts(PGD(eps=0.2, steps=3), n=3),
    WorstCase((FGSM(eps=0.2), PGD(eps=0.2, steps=3))),
    LeastLikely(TARGETED),
    RandomTarget(TARGETED),
    MultiTarget(TARGETED, k=9),
    Restarts(WorstCase((FGSM(eps=0.2), Restarts(PGD(eps=0.2, steps=2), n=2))), n=2),
]


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: type(attack).__name__)
def test_same_promises_as_any_attack(attack, linear, images, compiles):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    x_adv = attack(linear, images, labels, key=KEY)
    assert violations(images, x_adv, 0.2, "linf") == 0
    targets = attack.targets(linear, images, labels, key=KEY)
    assert judge(linear, images, x_adv, labels, targets=targets).success.mean() >= 0.25
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, jnp.arange(8))
    alone = [attack(linear, images[i : i + 1], labels[i : i + 1], key=keys[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(np.concatenate(alone), x_adv[:3], atol=1e-5)
    with compiles() as count:
        changed = jax.tree.map(lambda leaf: 0.5 * leaf, attack)
        changed(linear, images, labels, key=jax.random.key(3))
        assert count(type(attack).__name__) == 0
    noisy = Noisy(linear, jax.random.split(KEY, 1))
    assert attack(noisy, images, labels, key=KEY).shape == images.shape


def test_random_targets_are_wrong_classes_and_all_of_them(linear, images):
    x = jnp.tile(images, (40, 1, 1, 1))
    labels = jnp.tile(jnp.argmax(linear(images), axis=-1), 40)
    targets = RandomTarget(TARGETED).targets(linear, x, labels, key=KEY)
    assert not np.any(targets == labels)
    share = np.mean(np.asarray(targets - labels) % 3 == 1)
    assert 0.4 < share < 0.6
    with pytest.raises(ValueError, match="key"):
        RandomTarget(TARGETED).targets(linear, x, labels)


def test_least_likely_target(linear, images):
    labels = jnp.argmax(linear(images), axis=-1)
    targets = LeastLikely(TARGETED).targets(linear, images, labels)
    np.testing.assert_array_equal(targets, np.argmin(np.asarray(linear(images)), axis=-1))


def test_worst_case_is_the_maximum_of_its_members(linear, images):
    labels = jnp.argmax(linear(images), axis=-1)
    members = (FGSM(eps=0.02), BIM(eps=0.1, step_size=0.05, steps=2))
    best = judge(linear, images, WorstCase(members)(linear, images, labels), labels).success
    each = [judge(linear, images, member(linear, images, labels), labels).success for member in members]
    np.testing.assert_array_equal(best, np.max(each, axis=0))


def test_targets_are_needed(linear, images):
    labels = jnp.zeros(8, jnp.int32)
    for combinator in (LeastLikely, RandomTarget, MultiTarget):
        with pytest.raises(ValueError, match="targeted=True"):
            combinator(PGD(steps=2))(linear, images, labels, key=KEY)
    with pytest.raises(ValueError, match="one goal"):
        WorstCase((PGD(steps=2), TARGETED))(linear, images, labels, key=KEY)
    with pytest.raises(ValueError, match="empty"):
        WorstCase(())

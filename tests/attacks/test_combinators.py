"""Attacks made of attacks: the same call, best of each row, nothing about particular attacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy

from attacks.checkers import ever_falls, violations
from deepsec_jax.attacks import (
    BIM,
    FGSM,
    PGD,
    RFGSM,
    LeastLikely,
    MultiTarget,
    RandomTarget,
    Restarts,
    WorstCase,
    losses,
)
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


def margins(model, x_adv, labels):
    return np.asarray(losses.max_margin(model(x_adv), labels))


def test_restarts_are_fresh_draws_of_which_the_best_is_kept(linear, images):
    """R+FGSM with all of eps in the random step is a draw and nothing else."""
    labels, draw = jnp.argmax(linear(images), axis=-1), RFGSM(eps=0.05, alpha=0.05)
    alone = draw(linear, images, labels, key=KEY)
    np.testing.assert_array_equal(Restarts(draw, n=1)(linear, images, labels, key=KEY), alone)
    curve = [margins(linear, Restarts(draw, n=n)(linear, images, labels, key=KEY), labels) for n in (1, 2, 8)]
    assert not ever_falls(curve)
    assert (curve[2] > curve[0]).mean() > 0.6  # of eight draws the first is rarely the best
    others = [
        margins(linear, draw(linear, images, labels, key=jax.random.key(seed)), labels) for seed in (7, 8)
    ]
    assert ever_falls([curve[0], *others])  # planted: the last draw instead of the best


def test_restarts_towards_a_target_keep_the_nearest(linear, images):
    targets, draw = (jnp.argmax(linear(images), axis=-1) + 1) % 3, RFGSM(eps=0.05, alpha=0.05, targeted=True)
    curve = [
        margins(linear, Restarts(draw, n=n)(linear, images, targets, key=KEY), targets) for n in (1, 2, 8)
    ]
    assert not ever_falls([-each for each in curve]) and (curve[2] < curve[0]).mean() > 0.6


def test_worst_case_is_the_best_member_wherever_it_stands(linear, images):
    labels = jnp.argmax(linear(images), axis=-1)
    weak, strong = FGSM(eps=0.001), FGSM(eps=0.1)
    best = strong(linear, images, labels)
    for members in ((weak, strong), (strong, weak)):
        np.testing.assert_array_equal(WorstCase(members)(linear, images, labels), best)


def out_of_reach(push, x):
    """The likeliest wrong class stands still; only the other one comes nearer as the pixel rises."""
    pixel = x[:, 0, 0, 0]
    return jnp.stack([jnp.zeros_like(pixel), jnp.full_like(pixel, -0.1), push * (pixel - 0.6)], axis=1)


def test_every_wrong_class_is_tried_as_a_target():
    model = jax.tree_util.Partial(out_of_reach, jnp.float32(5.0))
    x, labels = jnp.full((2, 1, 1, 1), 0.5), jnp.zeros(2, jnp.int32)
    attack = MultiTarget(BIM(eps=0.3, step_size=0.1, steps=3, targeted=True))
    assert judge(model, x, attack(model, x, labels), labels).success.all()
    likeliest = MultiTarget(attack.attack, k=1)  # planted
    assert not judge(model, x, likeliest(model, x, labels), labels).success.any()


def test_targets_are_needed(linear, images):
    labels = jnp.zeros(8, jnp.int32)
    for combinator in (LeastLikely, RandomTarget, MultiTarget):
        with pytest.raises(ValueError, match="targeted=True"):
            combinator(PGD(steps=2))(linear, images, labels, key=KEY)
    with pytest.raises(ValueError, match="one goal"):
        WorstCase((PGD(steps=2), TARGETED))(linear, images, labels, key=KEY)
    with pytest.raises(ValueError, match="empty"):
        WorstCase(())

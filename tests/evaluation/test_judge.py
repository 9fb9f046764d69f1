"""The judge: success and distances by hand, fresh draws on randomised models, nothing an attack saw."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear

from deepsec_jax import attacks
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.robustness import ask, cascade
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.pytree import Struct, example_keys

PIXELS = Linear(jnp.eye(3), jnp.zeros(3))  # three pixels, class = the brightest one


def rows(*pixels):
    return jnp.array(pixels, jnp.float32)[:, None, :, None]


CLEAN = rows([0.5, 0.25, 0.0], [0.5, 0.25, 0.0], [0.5, 0.25, 0.0], [0.0, 0.25, 0.5])
MOVED = rows([0.5, 0.25, 0.0], [0.25, 0.5, 0.0], [0.25, 0.5, 1.0], [0.0, 0.25, 0.5])
LABELS = jnp.array([0, 0, 0, 0])


def test_distances_by_hand():
    outcome = judge(PIXELS, CLEAN, MOVED, LABELS)
    np.testing.assert_allclose(outcome.l0, [0, 2 / 3, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(outcome.l1, [0, 0.5, 1.5, 0], rtol=1e-6)
    np.testing.assert_allclose(outcome.l2, [0, np.sqrt(0.125), np.sqrt(1.125), 0], rtol=1e-6)
    np.testing.assert_allclose(outcome.linf, [0, 0.25, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(outcome.logits, MOVED[:, 0, :, 0])


def test_l0_counts_entries_not_pixels():
    clean = jnp.zeros((1, 2, 2, 3))
    model = Linear(jnp.zeros((12, 2)), jnp.zeros(2))
    outcome = judge(model, clean, clean.at[0, 0, 0, 1].set(0.5), jnp.array([0]))
    np.testing.assert_allclose(outcome.l0, [1 / 12], rtol=1e-6)


def test_untargeted_success_is_any_wrong_class():
    """Row 3 is wrong before it is touched: the judge looks at the end only."""
    np.testing.assert_array_equal(judge(PIXELS, CLEAN, MOVED, LABELS).success, [0, 1, 1, 1])


def test_targeted_success_is_the_target_only():
    targets = jnp.array([1, 1, 1, 2])
    np.testing.assert_array_equal(judge(PIXELS, CLEAN, MOVED, LABELS, targets=targets).success, [0, 1, 0, 1])


def test_numpy_in_and_bfloat16():
    outcome = judge(PIXELS, np.asarray(CLEAN), np.asarray(MOVED), np.asarray(LABELS))
    np.testing.assert_array_equal(outcome.success, [0, 1, 1, 1])
    half = judge(PIXELS, CLEAN.astype(jnp.bfloat16), MOVED.astype(jnp.bfloat16), LABELS)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(half.l1, outcome.l1)


class Flat(Struct):
    """Pixels as logits, also of an empty batch."""

    scale: jax.Array

    def __call__(self, x):
        return self.scale * jax.lax.collapse(x, 1)


@pytest.mark.parametrize("targets", [None, jnp.zeros(0, jnp.int32)])
def test_empty_batch(targets):
    empty = jnp.zeros((0, 1, 3, 1))
    outcome = judge(Flat(jnp.array(1.0)), empty, empty, jnp.zeros(0, jnp.int32), targets=targets)
    assert outcome.logits.shape == (0, 3)
    for values in (outcome.success, outcome.l0, outcome.l1, outcome.l2, outcome.linf):
        assert values.shape == (0,)


class Coin(Struct):
    """Class 0 or 1 by a fair coin of the row's own key."""

    keys: jax.Array

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        heads = jax.vmap(jax.random.bernoulli)(self.keys)
        return jax.nn.one_hot(heads.astype(jnp.int32), 2)


def coin(size):
    return Coin(jax.random.split(jax.random.key(5), size))


def toss(size=64, **options):
    x = jnp.zeros((size, 1, 1, 1))
    return judge(coin(size), x, x, jnp.zeros(size, jnp.int32), **options)


def test_randomised_success_is_a_share_of_ten_fresh_draws():
    success = np.asarray(toss().success)
    np.testing.assert_allclose(success * 10, np.round(success * 10), atol=1e-5)
    assert len(np.unique(np.round(success * 10))) >= 4, "rows toss their own coins"
    assert 0.4 < success.mean() < 0.6
    np.testing.assert_allclose(toss().logits[:, 1], success, atol=1e-6)  # the mean over the same draws


def test_randomised_judging_is_repeatable_and_keyed():
    one = toss().success
    np.testing.assert_array_equal(one, toss().success)
    assert not np.array_equal(one, toss(key=jax.random.key(1)).success)
    four = np.asarray(toss(draws=4).success) * 4
    np.testing.assert_allclose(four, np.round(four), atol=1e-5)


def test_randomised_targets():
    x = jnp.zeros((64, 1, 1, 1))
    outcome = judge(coin(64), x, x, jnp.zeros(64, jnp.int32), targets=jnp.zeros(64, jnp.int32))
    np.testing.assert_allclose(outcome.success, 1 - toss().success, atol=1e-6)


SEEN: set[bytes] = set()


class Watched(Struct):
    """A randomised linear model that notes every key it is called with."""

    base: Linear
    keys: jax.Array

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        jax.debug.callback(note, jax.random.key_data(self.keys))
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(self.keys)
        return self.base(x + 0.05 * noise)


def note(keys):
    SEEN.update(np.asarray(row).tobytes() for row in np.asarray(keys).reshape(-1, np.shape(keys)[-1]))


def seen_by(act) -> set[bytes]:
    SEEN.clear()
    jax.block_until_ready(act())
    jax.effects_barrier()
    return set(SEEN)


def test_judge_draws_are_none_that_the_attack_saw():
    model = Watched(PIXELS, example_keys(jax.random.key(0), len(CLEAN)))
    labels = jnp.argmax(PIXELS(CLEAN), axis=-1).astype(jnp.int32)
    pgd = attacks.PGD(steps=3)
    by_judge = seen_by(lambda: judge(model, CLEAN, MOVED, labels))
    assert len(by_judge) == 10 * len(CLEAN), "ten draws, every row its own"
    for seed in (0, 1, 2):
        by_attack = seen_by(lambda seed=seed: pgd(model, CLEAN, labels, key=jax.random.key(seed)))
        assert len(by_attack) >= 3 * len(CLEAN), "fresh numbers before every gradient"
        assert not by_attack & by_judge
        # The comparison does see shared draws: the same attack again, as a judge in its place would.
        assert by_attack == seen_by(lambda seed=seed: pgd(model, CLEAN, labels, key=jax.random.key(seed)))


def test_the_cascade_judges_under_draws_that_are_not_the_final_judges():
    """Or it would keep what happens to fool the very draws that count in the end."""
    model = Watched(PIXELS, example_keys(jax.random.key(0), len(CLEAN)))
    sample = Sample(np.asarray(CLEAN), np.asarray(LABELS), np.arange(4, dtype=np.int32))
    pgd = attacks.PGD(eps=0.05, step_size=0.05, steps=2)

    def cascaded(*runs):
        key = jax.random.key(3)
        return cascade(runs, model, sample, key=key, batch_size=4, on_batch=lambda done: None).x_adv

    by_judge = seen_by(lambda: ask(model, sample.images, sample.labels, batch_size=4).holds)
    assert len(by_judge) == 10 * len(CLEAN)
    judging = seen_by(lambda: cascaded(attacks.Transfer(pgd, PIXELS)))  # whose surrogate draws nothing
    assert len(judging) == 10 * len(CLEAN) and not judging & by_judge
    attacking = seen_by(lambda: cascaded(attacks.Transfer(pgd, model))) - judging
    assert attacking and not attacking & by_judge
    # Planted: asked without a key of its own it draws what the judge draws.
    assert by_judge == seen_by(lambda: ask(model, sample.images, sample.labels, batch_size=4, key=None).holds)


def test_draws_do_not_depend_on_the_batch():
    from conftest import Noisy, make_images, make_linear

    model = Noisy(make_linear(), jax.random.split(jax.random.key(0), 1), 0.5)
    x, labels = make_images(rows=6), jnp.zeros(6, jnp.int32)
    whole = judge(model, x, x, labels)
    part = judge(model, x[4:], x[4:], labels[4:], first=4)
    np.testing.assert_array_equal(part.success, whole.success[4:])
    unaware = judge(model, x[4:], x[4:], labels[4:])  # planted: the draws of rows 0 and 1
    assert np.any(np.asarray(unaware.logits) != np.asarray(whole.logits[4:]))

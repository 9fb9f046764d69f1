"""The judge: success and distances by hand, fresh draws on randomised models, nothing an attack saw."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear
from flax import nnx

from deepsec_jax import attacks
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.cascade import run_cascade
from deepsec_jax.evaluation.judge import judging_keys
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import example_keys, root_key

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
    """Row 3 is wrong before it is touched, which is no success and still no right answer."""
    outcome = judge(PIXELS, CLEAN, MOVED, LABELS)
    np.testing.assert_array_equal(outcome.success, [0, 1, 1, 0])
    np.testing.assert_array_equal(outcome.before, [0, 0, 0, 1])
    np.testing.assert_array_equal(outcome.correct, [1, 0, 0, 0])
    np.testing.assert_array_equal(outcome.predicted, [0, 1, 2, 2])


def test_targeted_success_is_the_target_only():
    targets = jnp.array([1, 1, 1, 2])
    outcome = judge(PIXELS, CLEAN, MOVED, LABELS, targets=targets)
    np.testing.assert_array_equal(outcome.success, [0, 1, 0, 0])
    np.testing.assert_array_equal(outcome.before, [0, 0, 0, 1])  # at its target before the attack


def test_numpy_in_and_bfloat16():
    outcome = judge(PIXELS, np.asarray(CLEAN), np.asarray(MOVED), np.asarray(LABELS))
    np.testing.assert_array_equal(outcome.success, [0, 1, 1, 0])
    half = judge(PIXELS, CLEAN.astype(jnp.bfloat16), MOVED.astype(jnp.bfloat16), LABELS)
    floats = jax.tree.leaves(half.replace(predicted=half.success))
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")} and half.predicted.dtype == jnp.int32
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


def test_a_randomised_answer_is_a_share_of_ten_fresh_draws():
    wrong = 1 - np.asarray(toss().correct)
    np.testing.assert_allclose(wrong * 10, np.round(wrong * 10), atol=1e-5)
    assert len(np.unique(np.round(wrong * 10))) >= 4, "rows toss their own coins"
    assert 0.4 < wrong.mean() < 0.6
    np.testing.assert_allclose(toss().logits[:, 1], wrong, atol=1e-6)  # the mean over the same draws
    np.testing.assert_allclose(toss().before, wrong, atol=1e-6)  # nobody has touched the images
    assert not toss().success.any()


def test_randomised_judging_is_repeatable_and_keyed():
    one = toss().correct
    np.testing.assert_array_equal(one, toss().correct)
    assert not np.array_equal(one, toss(key=jax.random.key(1)).correct)
    four = np.asarray(toss(draws=4).correct) * 4
    np.testing.assert_allclose(four, np.round(four), atol=1e-5)


def test_randomised_targets():
    x = jnp.zeros((64, 1, 1, 1))
    outcome = judge(coin(64), x, x, jnp.zeros(64, jnp.int32), targets=jnp.zeros(64, jnp.int32))
    np.testing.assert_allclose(outcome.before, toss().correct, atol=1e-6)
    assert not outcome.success.any()


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


def test_the_judges_root_is_none_that_a_seed_gives():
    """Attacks get ``root_key(seed)``: with such a root the judge could share an attacker's judging draws."""
    model = Watched(PIXELS, example_keys(jax.random.key(0), len(CLEAN)))
    own = jax.random.key_data(judging_keys(model, 4))
    for seed in range(100):
        shared = jax.random.key_data(judging_keys(model, 4, root=root_key(seed)))
        assert not {row.tobytes() for row in np.asarray(own).reshape(-1, 2)} & {
            row.tobytes() for row in np.asarray(shared).reshape(-1, 2)
        }


def test_the_cascade_judges_under_draws_that_are_not_the_final_judges():
    """Or it would keep what happens to fool the very draws that count in the end."""
    model = Watched(PIXELS, example_keys(jax.random.key(0), len(CLEAN)))
    sample = Sample(np.asarray(CLEAN), np.asarray(LABELS), np.arange(4, dtype=np.int32))
    pgd = attacks.PGD(eps=0.05, step_size=0.05, steps=2)

    def cascaded(*runs):
        key = jax.random.key(3)
        return run_cascade(runs, model, sample.images, sample.labels, key=key, batch_size=4).x_adv

    by_judge = seen_by(lambda: predict(model, sample.images, sample.labels, batch_size=4).holds)
    assert len(by_judge) == 10 * len(CLEAN)
    judging = seen_by(lambda: cascaded(attacks.Transfer(pgd, PIXELS)))  # whose surrogate draws nothing
    assert len(judging) == 10 * len(CLEAN) and not judging & by_judge
    attacking = seen_by(lambda: cascaded(attacks.Transfer(pgd, model))) - judging
    assert attacking and not attacking & by_judge
    # Planted: asked without a key of its own it draws what the judge draws.
    assert by_judge == seen_by(
        lambda: predict(model, sample.images, sample.labels, batch_size=4, key=None).holds
    )


def test_draws_do_not_depend_on_the_batch():
    from conftest import Noisy, make_images, make_linear

    model = Noisy(make_linear(), jax.random.split(jax.random.key(0), 1), 0.5)
    x, labels = make_images(rows=6), jnp.zeros(6, jnp.int32)
    whole = judge(model, x, x, labels)
    part = judge(model, x[4:], x[4:], labels[4:], first=4)
    np.testing.assert_array_equal(part.correct, whole.correct[4:])
    unaware = judge(model, x[4:], x[4:], labels[4:])  # planted: the draws of rows 0 and 1
    assert np.any(np.asarray(unaware.logits) != np.asarray(whole.logits[4:]))


FITTING = dict(x=CLEAN, x_adv=MOVED, labels=LABELS)


def training_mode():
    model = nnx.Dropout(0.5)
    model.train()
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": lambda x: x}, "Partial"),
        ({"model": training_mode()}, "training mode"),
        ({"x": CLEAN[0], "x_adv": MOVED[0]}, r"\[B, H, W, C\]"),
        ({"x": (255 * CLEAN).astype(jnp.uint8)}, "divide uint8 by 255"),
        ({"x_adv": (255 * MOVED).astype(jnp.uint8)}, "divide uint8 by 255"),
        ({"x_adv": MOVED[:, :, :2]}, "x_adv has shape"),
        ({"x_adv": MOVED[:2]}, "x_adv has shape"),
        ({"labels": LABELS[:, None]}, r"integers \[4\]"),  # compared all with all, it was a success of 0.22
        ({"labels": jnp.eye(3)[LABELS]}, "argmax"),
        ({"labels": LABELS.astype(jnp.float32)}, "integers"),
        ({"targets": LABELS[:, None]}, r"integers \[4\]"),
        ({"x": 255 * np.asarray(CLEAN)}, "image 0 has values from 0 to 127"),
        ({"x_adv": np.asarray(MOVED) + np.float32(0.01)}, "image 2 has values"),
        ({"x_adv": np.where(np.asarray(MOVED) == 1, np.nan, MOVED).astype(np.float32)}, "image 2 .* nan"),
        ({"labels": np.array([0, 1, 2, 3])}, "labels range over 0 .. 3, but the model has classes 0 .. 2"),
        ({"labels": np.array([0, 1, -1, 2])}, "labels range over -1 .. 2"),
        ({"targets": np.array([0, 1, 2, 3])}, "targets range over 0 .. 3"),
    ],
)
def test_what_no_attack_takes_is_refused(changes, message):
    given = {"model": PIXELS, **FITTING, **changes}
    with pytest.raises((TypeError, ValueError), match=message):
        judge(given["model"], given["x"], given["x_adv"], given["labels"], targets=given.get("targets"))


def test_on_a_device_such_a_row_is_no_number():
    """Looking there would wait: no figure comes out that could be taken for one."""
    beyond = MOVED.at[1].set(255.0).at[2].set(jnp.nan)
    np.testing.assert_array_equal(judge(PIXELS, CLEAN, beyond, LABELS).success, [0, np.nan, np.nan, 0])
    np.testing.assert_array_equal(judge(PIXELS, beyond, MOVED, LABELS).success, [0, np.nan, np.nan, 0])
    labels = jnp.array([0, 3, -1, 0])
    np.testing.assert_array_equal(judge(PIXELS, CLEAN, MOVED, labels).success, [0, np.nan, np.nan, 0])
    hair = MOVED - 1e-4  # what resizing leaves
    np.testing.assert_array_equal(judge(PIXELS, CLEAN, hair, LABELS).success, [0, 1, 1, 0])

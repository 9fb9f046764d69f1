"""Attacks on a model that can reject: the loss by hand, all attacks, targets, planted faults."""

from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear
from guards import Blind, Brightness, Given, Saturated, guarded
from scipy.special import logsumexp, softmax

from attacks.small import ready, small
from deepsec_jax import attacks
from deepsec_jax.attacks import ATTACKS, losses, run_in_batches
from deepsec_jax.attacks.best_so_far import reached, shortfall
from deepsec_jax.attacks.call import count_calls
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.defenses import FittedDetector
from deepsec_jax.evaluation import judge
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import reseed

LINEAR, KEY = make_linear(), jax.random.key(0)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3.0, size=(60, 6)).astype(np.float32)
LABELS = RNG.integers(0, 5, 60).astype(np.int32)
MODEL = guarded()
MINIMUM = [name for name in ATTACKS if ATTACKS[name].card.kind == "minimum-norm"]


def opened(logits=LOGITS, labels=LABELS):
    return open_logits(MODEL, jnp.asarray(logits), jnp.asarray(labels), targeted=False)


# --- the view of the logits


def by_hand(logits, labels):
    """The others without label and K, and max(z_y, z_K), in float64."""
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    others = [[z for j, z in enumerate(row[:-1]) if j != y] for row, y in zip(logits, labels, strict=True)]
    return np.array(others), np.maximum(logits[rows, labels], logits[:, -1])


def test_losses_are_the_formula():
    others, true = by_hand(LOGITS, LABELS)
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses.logit_gap(opened(), LABELS), logsumexp(others, axis=1) - true, **close)
    np.testing.assert_allclose(losses.max_margin(opened(), LABELS), others.max(axis=1) - true, **close)
    np.testing.assert_allclose(
        shortfall(opened(), LABELS, targeted=False), true - others.max(axis=1), **close
    )
    ordered = np.sort(np.column_stack([others, true]), axis=1)[:, ::-1]
    np.testing.assert_allclose(
        losses.dlr(opened(), LABELS), (others.max(axis=1) - true) / (ordered[:, 0] - ordered[:, 2]), **close
    )


def test_success_is_neither_the_label_nor_a_rejection():
    predicted = LOGITS.argmax(axis=1)
    wanted = (predicted != LABELS) & (predicted != 5)
    np.testing.assert_array_equal(losses.succeeded(opened(), LABELS, targeted=False), wanted)
    np.testing.assert_array_equal(reached(opened(), LABELS, targeted=False), wanted)
    assert 0 < wanted.sum() < (predicted != LABELS).sum()  # planted: without the view, rejections would count


def test_targeted_attacks_and_other_models_see_the_logits_as_they_are():
    logits = jnp.asarray(LOGITS)
    assert open_logits(MODEL, logits, jnp.asarray(LABELS), targeted=True) is logits
    for targeted in (False, True):
        assert open_logits(LINEAR, logits, jnp.asarray(LABELS), targeted=targeted) is logits
    assert class_logits(LINEAR, logits) is logits
    np.testing.assert_array_equal(class_logits(MODEL, logits), LOGITS[:, :5])


def test_the_gradient_goes_to_the_larger_of_label_and_rejection():
    logits = jnp.array([[1.0, 2.0, 0.0, 5.0], [1.0, 2.0, 0.0, -5.0]])
    labels = jnp.array([0, 0])
    found = jax.grad(
        lambda z: jnp.sum(losses.max_margin(open_logits(MODEL, z, labels, targeted=False), labels))
    )(logits)
    np.testing.assert_array_equal(found, [[0, 1, 0, -1], [-1, 1, 0, 0]])


# --- every attack of the table


def given(attack, labels):
    return (labels + 1) % 3 if getattr(attack, "targeted", False) else labels


@cache
def cases():
    """Images that the guarded model gets right and accepts, and their classes."""
    x = make_images(rows=60, seed=4)
    labels = np.asarray(jnp.argmax(MODEL(x), axis=-1)).astype(np.int32)
    chosen = np.flatnonzero(labels != 3)[:16]
    return x[chosen], jnp.asarray(labels[chosen])


def wrongly_found(model, x, x_adv, labels):
    """Rows that an attack that looks for the smallest change has moved without success, as the model says."""
    moved = np.asarray(jnp.any(x_adv != x, axis=(1, 2, 3)))
    predicted = np.asarray(jnp.argmax(model(x_adv), axis=-1))
    return moved & ((predicted == np.asarray(labels)) | (predicted == 3))


LONG = ("optmargin", "blb", "ead")  # with --long, as in the contracts; CW2 stands for every search


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in ATTACKS]
)
def test_every_attack_runs_on_a_model_that_rejects(name):
    x, labels = cases()
    attack = ready(small(name), MODEL, x)
    goal = given(attack, labels)
    targets = attack.targets(MODEL, x, goal, key=KEY)
    x_adv = attack(MODEL, x, goal, key=KEY)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    if hasattr(attack, "eps"):
        assert float(jnp.abs(x_adv - x).max()) <= attack.eps + 1e-6
    if targets is not None:
        assert int(jnp.max(targets)) < 3
    outcome = judge(MODEL, x, x_adv, labels, targets=targets)
    success, rejected = np.asarray(outcome.success), np.asarray(outcome.rejected)
    predicted = np.asarray(MODEL(x_adv)).argmax(axis=1)
    wanted = predicted == np.asarray(targets) if targets is not None else ~np.isin(predicted, [3])
    wanted &= predicted != np.asarray(labels)
    np.testing.assert_array_equal(success, wanted)
    np.testing.assert_array_equal(rejected, predicted == 3)
    assert not (success * rejected).any()
    # RayS looks at corners of the box first, and this detector rejects all that are bright.
    assert success.mean() > 0.1 or name == "rays"
    if name in MINIMUM:  # what is not found comes back clean, never as an image that is rejected
        moved = np.asarray(jnp.any(x_adv != x, axis=(1, 2, 3)))
        np.testing.assert_array_equal(moved, success == 1)


def test_planted_an_attack_that_takes_a_rejection_for_a_success_is_caught():
    x, labels = cases()
    blind = Blind(MODEL.model, MODEL.detector)
    attack = small("deepfool")
    assert not wrongly_found(MODEL, x, attack(MODEL, x, labels), labels).any()
    x_adv = attack(blind, x, labels)
    caught = wrongly_found(MODEL, x, x_adv, labels)
    assert caught.any()
    outcome = judge(MODEL, x, x_adv, labels)
    assert not np.asarray(outcome.success)[caught].any() and np.asarray(outcome.rejected)[caught].all()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "square"])
def test_attacks_in_a_ball_do_not_run_into_rejections(name):
    x, labels = cases()
    attack = ATTACKS[name](eps=0.3)
    found, lured = (
        judge(MODEL, x, attack(model, x, labels, key=KEY), labels)
        for model in (MODEL, Blind(MODEL.model, MODEL.detector))
    )
    assert lured.rejected.mean() > 0.5, "planted: it takes a rejection for a success"
    assert found.success.mean() >= lured.success.mean() + 0.3


def test_a_guard_that_never_flags_is_attacked_like_its_model():
    x, labels = cases()
    never = Guarded(LINEAR, FittedDetector(Brightness()))  # its threshold is infinite
    for name in ("pgd", "deepfool"):
        attack = small(name)
        found, wanted = (attack(model, x, labels, key=KEY) for model in (never, LINEAR))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_an_attack_comes_back_from_far_above_the_threshold():
    x, labels = cases()
    dark = Guarded(LINEAR, FittedDetector(Brightness(), 0.2, 0.05))  # flags all of these images
    assert np.asarray(dark.detector.flags(x)).all()
    attack = attacks.PGD(eps=0.6, step_size=0.05, steps=40)
    success = {}
    for kind in (Guarded, Saturated):
        model = kind(LINEAR, dark.detector)
        success[kind] = judge(model, x, attack(model, x, labels, key=KEY), labels).success.mean()
    assert success[Guarded] > 0.7 and success[Saturated] < 0.1  # the second is planted


def test_rows_keep_their_labels_when_they_are_sorted():
    """More rows than a batch that is cut: finished ones are laid aside, and labels go with their rows."""
    x = make_images(rows=40, seed=6)
    labels = jnp.argmax(LINEAR(x), axis=-1).astype(jnp.int32)
    order = np.random.default_rng(1).permutation(40)
    attack = small("deepfool")
    np.testing.assert_allclose(
        attack(MODEL, x, labels)[order], attack(MODEL, x[order], labels[order]), atol=1e-6
    )
    counts = count_calls(attack, MODEL, x, labels)
    assert len(set(np.asarray(counts.forwards).tolist())) > 2  # they do finish at different steps


# --- targets are classes


def low():
    """A guard whose "rejected" is always the least likely: its detector is sure that nothing is wrong."""
    return Guarded(LINEAR, FittedDetector(Given(jnp.full(16, -1e3)), 0.0, 1.0))


def test_the_least_likely_class_is_a_class():
    x, labels = cases()
    model = low()
    assert (np.asarray(model(x)).argmin(axis=1) == 3).all()  # the planted trap
    wanted = np.asarray(LINEAR(x)).argmin(axis=1)
    for attack in (attacks.LLC(), attacks.ILLC(), attacks.LeastLikely(attacks.PGD(targeted=True))):
        np.testing.assert_array_equal(attack.targets(model, x, labels), wanted)
    noisy = Guarded(Noisy(LINEAR, jax.random.split(KEY, 16), 1e-6), model.detector)
    np.testing.assert_array_equal(attacks.LLC().targets(noisy, x, labels), wanted)


class Wavering(Struct):
    """Logits of three classes and of "rejected", each a number of its own times one that a key draws."""

    factors: jax.Array  # [B, 4]
    keys: jax.Array  # [B]

    rejects: ClassVar[bool] = True
    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        del x
        return self.factors * jax.vmap(lambda key: jax.random.normal(key, (4,)))(self.keys)


def test_the_least_likely_class_of_a_randomised_model_is_that_of_the_mean_over_ten_draws():
    """A draw counts alike whether the image is rejected in it or not."""
    rows = 50
    factors = jax.random.normal(jax.random.key(1), (rows, 4)) * jnp.array([[3.0, 3.0, 3.0, 20.0]])
    model = Wavering(factors, jax.random.split(KEY, rows))
    draws = [
        np.asarray(reseed(model, jnp.broadcast_to(key, (rows,)))(None), np.float64)
        for key in jax.random.split(jax.random.key(0), 10)
    ]
    alike = np.mean([softmax(logits[:, :3], axis=1) for logits in draws], axis=0)
    x, labels = jnp.zeros((rows, 1, 1, 1)), jnp.zeros(rows, jnp.int32)
    found = attacks.LLC().targets(model, x, labels)
    np.testing.assert_array_equal(found, alike.argmin(axis=1))
    # Planted: with the rejection among the probabilities rejected draws count less, and one draw is another.
    with_rejection = np.mean([softmax(logits, axis=1)[:, :3] for logits in draws], axis=0)
    assert (with_rejection.argmin(axis=1) != alike.argmin(axis=1)).sum() >= 3
    assert (draws[0][:, :3].argmin(axis=1) != alike.argmin(axis=1)).sum() >= 3


def test_targets_that_are_drawn_or_ranked_are_classes():
    x, labels = cases()
    pgd = attacks.PGD(eps=0.3, step_size=0.1, steps=4, targeted=True)
    drawn = np.stack(
        [attacks.RandomTarget(pgd).targets(MODEL, x, labels, key=jax.random.key(seed)) for seed in range(8)]
    )
    assert set(drawn.ravel().tolist()) == {0, 1, 2} and (drawn != np.asarray(labels)).all()
    x_adv = attacks.MultiTarget(pgd)(MODEL, x, labels, key=KEY)
    outcome = judge(MODEL, x, x_adv, labels)
    assert outcome.success.mean() > 0.3 and not (outcome.success * outcome.rejected).any()


def test_labels_that_are_no_classes_are_refused():
    x, labels = cases()
    with pytest.raises(ValueError, match=r"range over . \.\. 3, but the model has classes 0 \.\. 2"):
        run_in_batches(small("fgsm"), MODEL, np.asarray(x), np.full(16, 3), batch_size=16)
    one = Guarded(LINEAR.replace(weights=LINEAR.weights[:, :1], bias=LINEAR.bias[:1]), MODEL.detector)
    with pytest.raises(ValueError, match=r"classes >= 2, and one more\], got \[16, 2\]"):
        small("fgsm")(one, x, labels)


# --- combinators


@pytest.mark.long  # 13 s
def test_combinators_keep_what_is_not_rejected():
    x, labels = cases()
    pgd = attacks.PGD(eps=0.3, step_size=0.05, steps=8)
    bare = attacks.Transfer(pgd, LINEAR)  # its images are often rejected
    alone = judge(MODEL, x, bare(MODEL, x, labels, key=KEY), labels)
    assert alone.rejected.any()
    single = judge(MODEL, x, pgd(MODEL, x, labels, key=KEY), labels)
    for attack in (
        attacks.Cascade((bare, pgd)), attacks.WorstCase((bare, pgd)), attacks.Restarts(pgd, n=2),
    ):  # fmt: skip
        outcome = judge(MODEL, x, attack(MODEL, x, labels, key=KEY), labels)
        assert not (outcome.success * outcome.rejected).any()
        assert outcome.success.mean() >= single.success.mean()
    joint = attacks.Transfer(pgd, MODEL)  # on a guarded surrogate, whatever the model of the call
    np.testing.assert_array_equal(joint(LINEAR, x, labels, key=KEY), pgd(MODEL, x, labels, key=KEY))


def test_the_smallest_eps_is_one_that_is_not_rejected():
    x, labels = cases()
    attack = attacks.SmallestEps(small("pgd"), search_steps=4)
    x_adv = attack(MODEL, x, labels, key=KEY)
    assert not wrongly_found(MODEL, x, x_adv, labels).any()
    assert judge(MODEL, x, x_adv, labels).success.any()


def test_a_randomised_model_behind_a_detector():
    x, labels = cases()
    model = Guarded(Noisy(LINEAR, jax.random.split(KEY, 16), 0.2), MODEL.detector)
    x_adv = attacks.PGD(eps=0.3, step_size=0.1, steps=4)(model, x, labels, key=KEY)
    outcome = judge(model, x, x_adv, labels)
    assert ((outcome.success >= 0) & (outcome.success + outcome.rejected <= 1 + 1e-6)).all()
    assert ((outcome.success > 0) & (outcome.success < 1)).any()
    assert reseed(model, jax.random.split(KEY, 16)).detector is not None

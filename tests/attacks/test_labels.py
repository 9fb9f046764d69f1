"""Labels of any integers: what a uint8 or int8 makes of 300 classes is what an int32 makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from attacks.small import ready, small
from deepsec_jax import metrics
from deepsec_jax.answers import as_labels
from deepsec_jax.attacks import (
    ATTACKS,
    BIM,
    EAD,
    FGSM,
    Cascade,
    LeastLikely,
    Masked,
    MultiTarget,
    RandomTarget,
    Restarts,
    SmallestEps,
    Transfer,
    WorstCase,
    losses,
    run_in_batches,
)
from deepsec_jax.attacks.ead import both_rules
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.data import Split
from deepsec_jax.evaluation import judge
from deepsec_jax.evaluation.measured import record_of
from deepsec_jax.pytree import Struct

KEY = jax.random.key(0)
CLASSES = 300  # a uint8 takes class 259 for 3, an int8 class 131
SMALL = (np.uint8, np.int8)
LONG = ("optmargin", "blb", "ead")
LABELS = np.array([3, 0, 100, 127, 90, 41], np.int32)

HELD = {
    "restarts": Restarts(FGSM(), n=2),
    "worst case": WorstCase((FGSM(), BIM(steps=2))),
    "cascade": Cascade((FGSM(eps=0.001), BIM(steps=2))),
    "least likely": LeastLikely(BIM(steps=2, targeted=True)),
    "random target": RandomTarget(BIM(steps=2, targeted=True)),
    "multi-target": MultiTarget(BIM(steps=2, targeted=True), k=2),
    "smallest eps": SmallestEps(FGSM()),
    "transfer": Transfer(FGSM(), make_linear(classes=CLASSES, seed=4)),
    "masked": Masked(FGSM(), np.arange(16).reshape(4, 4) < 9),
}


@pytest.fixture(autouse=True)
def promotion():
    """As jax has it: strict promotion would refuse what is wrong here."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def model():
    """A model on whose images a wrapped label is the class that the true one competes with."""
    linear = make_linear(classes=CLASSES)
    near = linear.weights[:, : CLASSES - 256] + 0.05
    return linear.replace(weights=linear.weights.at[:, 256:].set(near))


@pytest.fixture(scope="module")
def x():
    return make_images(rows=len(LABELS))


def calls(attack, model, x, labels):
    """Return the images and the targets."""
    return attack(model, x, labels, key=KEY), attack.targets(model, x, labels, key=KEY)


@pytest.mark.parametrize("small_int", SMALL)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in ATTACKS]
)
def test_every_attack(name, small_int, model, x):
    attack = ready(small(name), model, x)
    wanted = calls(attack, model, x, LABELS)
    for labels in (LABELS.astype(small_int), jnp.asarray(LABELS, small_int)):
        for ours, theirs in zip(calls(attack, model, x, labels), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("held", HELD)
def test_every_combinator(held, model, x):
    attack = HELD[held]
    wanted = calls(attack, model, x, LABELS)
    for small_int in SMALL:
        for ours, theirs in zip(calls(attack, model, x, LABELS.astype(small_int)), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_random_targets_are_any_class(model):
    """Labels and targets above what an int8 counts to: the sum is no int8's either."""
    x, labels = make_images(rows=64), np.full(64, 127, np.int8)
    targets = np.asarray(RandomTarget(BIM(targeted=True)).targets(model, x, labels, key=KEY))
    assert targets.dtype == np.int32 and targets.min() >= 0 and targets.max() >= 256


def test_batches_judge_and_metrics(model, x):
    x_adv = run_in_batches(BIM(), model, np.asarray(x), LABELS, batch_size=4)
    wanted = judge(model, x, x_adv, LABELS, targets=LABELS)
    record = record_of(model, x, x_adv, LABELS)
    raw = metrics.defense_record_of(model, model, x, LABELS)
    for small_int in SMALL:
        labels = LABELS.astype(small_int)
        np.testing.assert_array_equal(
            run_in_batches(BIM(), model, np.asarray(x), labels, batch_size=4), x_adv
        )
        for mine in (judge(model, x, x_adv, jnp.asarray(labels), targets=labels), wanted):
            np.testing.assert_array_equal(mine.success, wanted.success)
        mine = record_of(model, x, x_adv, labels)
        assert mine.labels.dtype == jnp.int32
        for name in ("mr", "acac", "actc"):
            ours, theirs = (metrics.METRICS[name].values(each) for each in (mine, record))
            np.testing.assert_array_equal(ours, theirs)
        defended = metrics.defense_record_of(model, model, x, labels)
        assert defended.labels.dtype == jnp.int32
        np.testing.assert_array_equal(defended.correct, raw.correct)


@pytest.mark.parametrize("small_int", SMALL)
def test_losses_and_what_rejects(small_int, model, x):
    logits, labels = model(x), jnp.asarray(LABELS, small_int)
    for loss in losses.LOSSES.values():
        np.testing.assert_array_equal(loss(logits, labels), loss(logits, LABELS))
    for aimed in (losses.margin_to, losses.dlr_to):
        ours, theirs = aimed(logits, labels, labels[::-1]), aimed(logits, LABELS, LABELS[::-1])
        np.testing.assert_array_equal(ours, theirs)
    # Planted: jax's own one_hot of such labels has two ones in a row.
    assert (jax.nn.one_hot(labels, CLASSES).sum(axis=1) > 1).any()


class Refusing(Struct):
    """A model whose last logit means "rejected"."""

    base: object
    rejects = True

    def __call__(self, x):
        logits = self.base(x)
        return jnp.concatenate([logits, logits.max(axis=1, keepdims=True) + 1.0], axis=1)


def test_open_logits(model, x):
    refusing = Refusing(model)
    opened = [
        open_logits(refusing, refusing(x), jnp.asarray(LABELS, kind), targeted=False)
        for kind in (np.int32, *SMALL)
    ]
    for each in opened[1:]:
        np.testing.assert_array_equal(each, opened[0])


@pytest.mark.long
def test_both_rules_of_ead(model, x):
    attack = EAD(c=0.1, search_steps=2, steps=10)
    wanted = both_rules(attack, model, x, LABELS)
    for ours, theirs in zip(both_rules(attack, model, x, LABELS.astype(np.uint8)), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_split_keeps_int32(x):
    for kind in (*SMALL, np.int64):
        split = Split(np.asarray(x), LABELS.astype(kind))
        assert split.labels.dtype == np.int32 and (split.labels == LABELS).all()
    assert Split(np.asarray(x), LABELS).labels is LABELS  # a memory map stays one


def test_what_is_no_integer_passes_for_the_check_to_refuse(model, x):
    assert as_labels(np.zeros(2)).dtype == jnp.float32
    assert as_labels([1, 2]).dtype == jnp.int32
    with pytest.raises(ValueError, match="labels must be integers"):
        FGSM()(model, x, LABELS.astype(np.float32))

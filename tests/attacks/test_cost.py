"""What an attack says it costs, against calls counted in the model itself."""

import math
from collections import Counter
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear

from attacks.small import ready, small
from deepsec_jax import attacks
from deepsec_jax.attacks import ATTACKS, count_calls
from deepsec_jax.attacks.cost import Cost, cost, uses_gradients
from deepsec_jax.catalog import Card
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.pytree import Struct

CALLS: Counter = Counter()
SHAPE, CLASSES = (4, 4, 1), 3


def note(what, rows):
    jax.debug.callback(lambda: CALLS.update({what: rows}))


@jax.custom_vjp
def counted(model, x):
    note("forwards", x.shape[0])
    return model(x)


def forward(model, x):
    return model(x), (model, x)


def backward(held, cotangent):
    note("gradients", cotangent.shape[0])
    model, x = held
    return jax.vjp(lambda model, x: model(x), model, x)[1](cotangent)


counted.defvjp(forward, backward)


class Watched(Struct):
    """A linear model that counts its calls, and its gradients, row by row, while the program runs."""

    model: Linear

    def __call__(self, x):
        return counted(self.model, x)


def calls_of(attack, rows=3):
    """Return the most forwards and gradients that an attack takes for one of some images, counted."""
    model, x = Watched(make_linear(SHAPE, CLASSES)), make_images(rows, SHAPE)
    labels = jnp.argmax(model.model(x), axis=-1).astype(jnp.int32)
    goal = (labels + 1) % CLASSES if getattr(attack, "targeted", False) else labels
    attack = ready(attack, model.model, make_images(8, SHAPE, seed=5))
    most = Counter()
    for row in range(rows):
        jax.effects_barrier()
        CALLS.clear()
        jax.block_until_ready(attack(model, x[row : row + 1], goal[row : row + 1], key=jax.random.key(row)))
        jax.effects_barrier()
        most |= CALLS
    return most["forwards"], most["gradients"]


def wrong(attack) -> str:
    """Return in what way an attack takes more calls than it says, or others where it says how many."""
    stated = cost(attack, classes=CLASSES, entries=math.prod(SHAPE))
    if stated is None:
        return "states no cost"
    forwards, gradients = calls_of(attack)
    if forwards > stated.forwards or gradients > stated.gradients:
        return f"takes {forwards} and {gradients}, more than {stated}"
    if stated.exact and (forwards, gradients) != (stated.forwards, stated.gradients):
        return f"takes {forwards} and {gradients}, not {stated}"
    return ""


BIM = attacks.BIM(eps=0.05, step_size=0.02, steps=3)
AIMED = BIM.replace(targeted=True)
COMBINED = {
    "restarts": attacks.Restarts(attacks.PGD(eps=0.05, steps=2), n=3),
    "worst case": attacks.WorstCase((attacks.FGSM(eps=0.05), BIM)),
    "cascade": attacks.Cascade((attacks.FGSM(eps=0.01), BIM)),
    "least likely": attacks.LeastLikely(AIMED),
    "random target": attacks.RandomTarget(AIMED),
    "multi-target": attacks.MultiTarget(AIMED, k=9),
    "smallest eps": attacks.SmallestEps(BIM, search_steps=3),
    "many restarts": attacks.ManyRestarts(attacks.PGD(eps=0.05, steps=2), n=3, probe=2),
    "rounded": attacks.Rounded(BIM),
    "within": attacks.Within(attacks.DeepFool(steps=3), 1.0, "l2"),
    "masked": attacks.Masked(BIM, jnp.arange(16).reshape(4, 4) % 2 == 0),
    "pgd, one step": attacks.PGD(eps=0.05, steps=1),
    "apgd, aims": attacks.APGD(eps=0.01, steps=4, aims=9, restarts=2),
    "apgd, nearest": attacks.APGD(eps=0.01, steps=4, aims=2, nearest=True),
    "jsma, logits": attacks.JSMA(gamma=0.5, saliency="logits"),
    "square, guided": attacks.Square(eps=0.01, queries=20, guided=True),
    "autoattack": attacks.AutoAttack(eps=0.01, queries=10, steps=4),
}


@pytest.mark.parametrize("attack", [small(name) for name in ATTACKS], ids=list(ATTACKS))
def test_no_attack_takes_more_calls_than_it_says(attack):
    assert wrong(attack) == ""


def test_every_combination_is_looked_at():
    exported = [getattr(attacks, name) for name in attacks.__all__]
    kinds = {kind for kind in exported if isinstance(kind, type) and hasattr(kind, "targets")}
    fixed = {attacks.Perturbation, attacks.FixedImages, attacks.Transfer}  # no calls, or another model's
    assert kinds - fixed - set(ATTACKS.values()) <= {type(attack) for attack in COMBINED.values()}


BRIEF = ("restarts", "cascade", "multi-target", "many restarts", "within", "apgd, nearest", "square, guided")


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=[] if name in BRIEF else pytest.mark.long)
        for name, attack in COMBINED.items()
    ],
)
def test_nor_does_a_combination(attack):
    assert wrong(attack) == ""


def test_the_evaluation_runs_an_attack_once():
    """Whether it counts its calls or not: asking for counts must not cost another run."""
    model, x = Watched(make_linear(SHAPE, CLASSES)), np.asarray(make_images(1, SHAPE))
    labels = np.asarray(jnp.argmax(model.model(jnp.asarray(x)), axis=-1), np.int32)
    for attack in (BIM, attacks.Within(BIM, 1.0, "l2"), attacks.FMN(steps=3)):
        for run in (
            lambda attack: generate(attack, model, x, labels, key=jax.random.key(0), batch_size=1).gradients,
            lambda attack: count_calls(attack, model, x, labels),
        ):
            jax.effects_barrier()
            CALLS.clear()
            run(attack)
            jax.effects_barrier()
            assert CALLS["gradients"] == 3
    twice = Counter()
    for _ in range(2):  # planted: asked for counts, and then for images
        CALLS.clear()
        count_calls(BIM, model, x, labels)
        jax.effects_barrier()
        twice += CALLS
    assert twice["gradients"] == 6


class Understated(Struct):
    """PGD that states half of its steps."""

    inner: attacks.PGD = attacks.PGD(eps=0.05, steps=4)
    exact: ClassVar[bool] = False
    needs_key: ClassVar[bool] = True
    targets = attacks.FGSM.targets
    targeted: ClassVar[bool] = False

    def cost(self, classes, entries):
        return Cost(1.0, 2.0, self.exact)

    def __call__(self, model, x, labels, *, key=None):
        return self.inner(model, x, labels, key=key)


def test_too_low_a_cost_is_seen_and_so_is_an_inexact_one():
    assert wrong(Understated()).startswith("takes 1 and 4, more than Cost")

    class Overstated(Understated):
        exact = True

        def cost(self, classes, entries):
            return Cost(1.0, 5.0)

    assert "not Cost" in wrong(Overstated())


def test_an_attack_that_states_no_cost_has_none_and_neither_has_what_holds_it():
    class Silent(Struct):
        card: ClassVar[Card] = Card("Silent", "t", "r", "untargeted", "budget")
        targets = attacks.FGSM.targets

    ask = partial(cost, classes=3, entries=16)
    assert ask(Silent()) is None and wrong(Silent()) == "states no cost"
    for holder in (attacks.Restarts(Silent()), attacks.WorstCase((attacks.FGSM(), Silent()))):
        assert ask(holder) is None


def test_a_loss_that_sees_the_clean_images_layers_takes_a_forward_more():
    layers = attacks.FeatureDistance()
    for attack in (BIM, attacks.PGD(steps=1), attacks.ILLC(steps=2), attacks.RFGSM(), attacks.TMIFGSM()):
        plain, more = (cost(each, classes=3, entries=16) for each in (attack, attack.replace(loss=layers)))
        assert more == plain.with_forwards(1)


def test_who_follows_gradients():
    assert uses_gradients(attacks.PGD()) and uses_gradients(attacks.UAP())
    square = attacks.Square()
    assert not uses_gradients(square) and uses_gradients(square.replace(guided=True))
    assert uses_gradients(square.replace(start=attacks.PGD()))
    assert not uses_gradients(attacks.Restarts(square)) and uses_gradients(attacks.AutoAttack())
    assert uses_gradients(attacks.WorstCase((square, attacks.FGSM())))
    assert not uses_gradients(attacks.Cascade((square, square)))


def test_order_and_bounds_are_on_the_card():
    for name, attack in ATTACKS.items():
        for weaker in attack.card.stronger_than:
            assert weaker in ATTACKS and weaker != name
            assert name not in ATTACKS[weaker].card.stronger_than
    assert {name for name, attack in ATTACKS.items() if attack.card.unbounded} >= {"cw2", "ead", "deepfool"}
    assert not ATTACKS["jsma"].card.unbounded and not ATTACKS["pgd"].card.unbounded

"""Transfer: the attack on the surrogate bit for bit, judged on another model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, Scaled, make_images, make_linear

from attacks.checkers import violations
from deepsec_jax.attacks import (
    FGSM,
    ILLC,
    LLC,
    PGD,
    UAP,
    LeastLikely,
    Restarts,
    Transfer,
    WorstCase,
    prepare,
    run_in_batches,
)
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)
VICTIM, SURROGATE, OTHER = (make_linear(seed=seed) for seed in (0, 7, 8))
X = make_images()
LABELS = jnp.argmax(VICTIM(X), axis=-1).astype(jnp.int32)
PGD_3 = PGD(eps=0.2, step_size=0.1, steps=3)
EVERY = [
    FGSM(eps=0.2),
    PGD_3,
    ILLC(eps=0.2, step_size=0.1, steps=3),
    PGD(eps=0.2, step_size=0.1, steps=3, targeted=True),
    Restarts(PGD_3, n=2),
    LeastLikely(PGD(eps=0.2, step_size=0.1, steps=3, targeted=True)),
]


def is_the_attack_on_the_surrogate(transfer) -> bool:
    """Images and targets are those of the inner attack on the surrogate, bit for bit."""
    inner = transfer.attack
    images = [transfer(VICTIM, X, LABELS, key=KEY), inner(SURROGATE, X, LABELS, key=KEY)]
    targets = [transfer.targets(VICTIM, X, LABELS, key=KEY), inner.targets(SURROGATE, X, LABELS, key=KEY)]
    same = (None, None) if targets == [None, None] else targets
    return np.array_equal(*images) and np.array_equal(*same)


@pytest.mark.parametrize("inner", EVERY, ids=lambda attack: type(attack).__name__)
def test_the_attack_on_the_surrogate_bit_for_bit(inner):
    transfer = Transfer(inner, SURROGATE)
    assert is_the_attack_on_the_surrogate(transfer)
    assert transfer.targeted == getattr(inner, "targeted", False)
    x_adv = transfer(VICTIM, X, LABELS, key=KEY)
    assert x_adv.dtype == X.dtype and violations(X, x_adv, 0.2, "linf") == 0


class AttacksTheVictim(Transfer):
    """Planted: images of the model of the call."""

    def __call__(self, model, x, labels, *, key=None):
        return self.attack(model, x, labels, key=key)


class TargetsOfTheVictim(Transfer):
    """Planted: targets of the model of the call."""

    def targets(self, model, x, labels, *, key=None):
        return self.attack.targets(model, x, labels, key=key)


def test_attacking_or_asking_the_victim_would_be_seen():
    for inner in (FGSM(eps=0.2), PGD_3, LLC(eps=0.2)):
        assert not is_the_attack_on_the_surrogate(AttacksTheVictim(inner, SURROGATE))
    assert not is_the_attack_on_the_surrogate(TargetsOfTheVictim(LLC(eps=0.2), SURROGATE))


def test_judged_on_another_model():
    """On the surrogate it is the white box; on the victim it can be no better than the victim's own."""
    x, attack = make_images(rows=64, seed=3), PGD(eps=0.3, step_size=0.1, steps=4)
    both = jnp.argmax(VICTIM(x), axis=-1) == jnp.argmax(SURROGATE(x), axis=-1)
    x = x[both]
    labels = jnp.argmax(VICTIM(x), axis=-1).astype(jnp.int32)
    transferred = Transfer(attack, SURROGATE)(VICTIM, x, labels, key=KEY)
    rate = {
        "surrogate": judge(SURROGATE, x, transferred, labels).success.mean(),
        "victim": judge(VICTIM, x, transferred, labels).success.mean(),
        "white box": judge(VICTIM, x, attack(VICTIM, x, labels, key=KEY), labels).success.mean(),
    }
    assert rate["surrogate"] == 1 and rate["white box"] == 1 and rate["victim"] < 0.9


def test_least_likely_is_the_surrogates():
    """LLC hits its own target where it looked for it; the victim's least likely class is another."""
    attack = Transfer(LLC(eps=1.0), SURROGATE)
    targets = attack.targets(VICTIM, X, LABELS)
    np.testing.assert_array_equal(targets, np.argmin(np.asarray(SURROGATE(X)), axis=-1))
    assert np.any(targets != np.argmin(np.asarray(VICTIM(X)), axis=-1))
    hits = judge(SURROGATE, X, attack(VICTIM, X, LABELS), LABELS, targets=targets).success
    assert hits.mean() == 1


def test_one_compile_for_all_weights(compiles):
    Transfer(PGD_3, SURROGATE)(VICTIM, X, LABELS, key=KEY)
    run = jax.jit(lambda attack, model, x, labels, key: attack(model, x, labels, key=key))
    nested = Restarts(Transfer(PGD_3, SURROGATE), n=2)
    run(Transfer(PGD_3, SURROGATE), VICTIM, X, LABELS, KEY)
    nested(VICTIM, X, LABELS, key=KEY)
    with compiles() as count:
        for other, victim in ((OTHER, VICTIM), (SURROGATE, OTHER)):
            attack = Transfer(PGD_3.replace(eps=0.1), other)
            attack(victim, X, LABELS, key=KEY)
            run(attack, victim, X, LABELS, KEY)
            Restarts(attack, n=2)(victim, X, LABELS, key=KEY)
        assert count() == 0
    with compiles() as count:  # planted: another number of steps is another program
        Transfer(PGD_3.replace(steps=2), SURROGATE)(VICTIM, X, LABELS, key=KEY)
        assert count("PGD") == 1


def test_under_jit_and_over_stacked_surrogates():
    attack = Transfer(PGD_3, SURROGATE)
    eager = attack(VICTIM, X, LABELS, key=KEY)
    jitted = jax.jit(lambda attack, model: attack(model, X, LABELS, key=KEY))(attack, VICTIM)
    np.testing.assert_allclose(jitted, eager, atol=1e-6)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), SURROGATE, OTHER)
    both = jax.vmap(lambda model: Transfer(PGD_3, model)(VICTIM, X, LABELS, key=KEY))(stacked)
    for found, model in zip(both, (SURROGATE, OTHER), strict=True):
        np.testing.assert_allclose(found, PGD_3(model, X, LABELS, key=KEY), atol=1e-6)
    assert not np.array_equal(*both)


def test_inside_combinators_the_call_s_model_decides():
    """A worst case over surrogates, and restarts outside: the best of the candidates on the victim."""
    x = make_images(rows=40, seed=5)
    labels = jnp.argmax(VICTIM(x), axis=-1).astype(jnp.int32)
    members = tuple(Transfer(FGSM(eps=0.15), model) for model in (SURROGATE, OTHER))
    each = [judge(VICTIM, x, member(VICTIM, x, labels), labels).success for member in members]
    best = judge(VICTIM, x, WorstCase(members)(VICTIM, x, labels), labels).success
    np.testing.assert_array_equal(best, np.max(each, axis=0))
    assert np.mean(best) > max(np.mean(one) for one in each)
    one = PGD(eps=0.15, step_size=0.1, steps=1)
    outside = Restarts(Transfer(one, SURROGATE), n=8)(VICTIM, x, labels, key=KEY)
    inside = Transfer(Restarts(one, n=8), SURROGATE)(VICTIM, x, labels, key=KEY)
    rates = [judge(VICTIM, x, x_adv, labels).success.mean() for x_adv in (outside, inside)]
    assert rates[0] > rates[1], "who may ask the victim does better"


def test_a_randomised_surrogate_and_a_randomised_victim():
    noisy = Noisy(SURROGATE, jax.random.split(KEY, 8))
    attack = Transfer(FGSM(eps=0.2), noisy)
    assert attack.needs_key and not Transfer(FGSM(), SURROGATE).needs_key
    assert Transfer(PGD_3, SURROGATE).needs_key
    with pytest.raises(ValueError, match="draws random numbers"):
        attack(VICTIM, X, LABELS)
    x_adv = attack(VICTIM, X, LABELS, key=KEY)
    np.testing.assert_array_equal(x_adv, FGSM(eps=0.2)(noisy, X, LABELS, key=KEY))
    np.testing.assert_array_equal(attack(VICTIM, X, LABELS, key=KEY), x_adv)
    shaky = Noisy(VICTIM, jax.random.split(KEY, 8))
    assert Restarts(attack, n=2)(shaky, X, LABELS, key=KEY).shape == X.shape
    # The model of the call is not asked, so its randomness cannot matter, nor need a key.
    victimless = Transfer(FGSM(eps=0.2), SURROGATE)
    np.testing.assert_array_equal(victimless(shaky, X, LABELS), victimless(VICTIM, X, LABELS))


def test_numbers_of_the_surrogate_stay_as_they_are():
    """A Python number in a bfloat16 model is weakly typed; as a float32 it would not even run here."""
    surrogate = Scaled(SURROGATE, 2.0)
    x = X.astype(jnp.bfloat16)
    x_adv = Transfer(FGSM(eps=0.2), surrogate)(VICTIM, x, LABELS)
    np.testing.assert_array_equal(x_adv, FGSM(eps=0.2)(surrogate, x, LABELS))
    assert x_adv.dtype == jnp.bfloat16
    with pytest.raises(jax.dtypes.TypePromotionError):
        FGSM(eps=0.2)(Scaled(SURROGATE, np.float32(2.0)), x, LABELS)


def test_a_fitted_attack_is_fitted_on_the_surrogate():
    images, uap = make_images(rows=16, seed=9), UAP(eps=0.2, passes=1)
    ready = prepare(Transfer(uap, SURROGATE), VICTIM, images, key=KEY, batch_size=8)
    delta = uap.fit(SURROGATE, images, key=KEY, batch_size=8).delta
    np.testing.assert_array_equal(ready.attack.delta, delta)
    assert not np.array_equal(uap.fit(VICTIM, images, key=KEY, batch_size=8).delta, delta)
    plain = Transfer(PGD_3, SURROGATE)
    assert not hasattr(plain, "fit") and prepare(plain, VICTIM, images, key=KEY) is plain


def test_in_batches():
    attack = Transfer(PGD_3, SURROGATE)
    found = run_in_batches(attack, VICTIM, np.asarray(X), np.asarray(LABELS), key=KEY, batch_size=3)
    np.testing.assert_allclose(found, attack(VICTIM, X, LABELS, key=KEY), atol=1e-6)
    assert attack(VICTIM, X[:0], LABELS[:0], key=KEY).shape == (0, 4, 4, 1)


def test_a_plain_function_is_refused_on_either_side():
    def plain(x):
        return VICTIM(x)

    for surrogate, model in ((SURROGATE, plain), (plain, VICTIM)):
        with pytest.raises(TypeError, match="plain function"):
            Transfer(FGSM(), surrogate)(model, X, LABELS)


def test_combinators_leave_the_surrogates_numbers_alone():
    """What brings an attack's numbers to one kind must not reach into the model that it holds."""
    surrogate, x = Scaled(SURROGATE, 2.0), X.astype(jnp.bfloat16)
    x_adv = Restarts(Transfer(PGD(eps=0.2, steps=1, step_size=0.1), surrogate), n=1)(
        Scaled(VICTIM, 1.0), x, LABELS, key=KEY
    )
    alone = PGD(eps=0.2, steps=1, step_size=0.1)(surrogate, x, LABELS, key=KEY)
    np.testing.assert_array_equal(x_adv, alone)

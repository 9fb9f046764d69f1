"""SmallestEps and Cascade."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear

from attacks.checkers import violations
from deepsec_jax.attacks import BIM, FGSM, PGD, RFGSM, Cascade, DeepFool, SmallestEps, WorstCase
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)


def test_smallest_eps_of_fgsm_is_the_linear_distance():
    """Two classes, L-inf: FGSM succeeds exactly from gap / ||w||_1 on."""
    model = make_linear(classes=2, seed=4)
    x = 0.4 + 0.2 * make_images(rows=8, seed=5)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    gap = np.abs(np.asarray(model(x), np.float64) @ [1, -1])
    expected = gap / np.abs(np.asarray(model.weights, np.float64) @ [1, -1]).sum()
    x_adv = SmallestEps(FGSM(), largest=0.5, search_steps=14)(model, x, labels)
    outcome = judge(model, x, x_adv, labels)
    assert (np.asarray(outcome.success) == 1).all()
    np.testing.assert_allclose(outcome.linf, expected, atol=2 * 0.5 / 2**14 + 1e-6)
    coarse = SmallestEps(FGSM(), largest=0.5, search_steps=2)(model, x, labels)
    assert (np.asarray(judge(model, x, coarse, labels).linf) - expected).max() > 1e-3  # planted


@pytest.mark.long
def test_smallest_eps_keeps_the_shape_of_the_attack(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    for inner in (BIM(eps=0.3, step_size=0.1, steps=4), RFGSM(), PGD(steps=3)):
        attack = SmallestEps(inner, largest=0.8, search_steps=6)
        outcome = judge(linear, images, attack(linear, images, labels, key=KEY), labels)
        fixed = judge(linear, images, inner.replace(eps=0.8)(linear, images, labels, key=KEY), labels)
        assert outcome.success.mean() >= fixed.success.mean() - 0.13
        assert float(jnp.max(outcome.linf)) <= 0.8 + 1e-6
    with pytest.raises(ValueError, match="budget eps"):
        SmallestEps(DeepFool())(linear, images, labels)


def test_smallest_eps_returns_failures_clean(linear, images):
    labels = jnp.argmax(linear(images), axis=-1).astype(jnp.int32)
    tiny = SmallestEps(FGSM(), largest=1e-4)
    np.testing.assert_array_equal(tiny(linear, images, labels), images)
    np.testing.assert_array_equal(SmallestEps(FGSM())(linear, images, (labels + 1) % 3), images)


@pytest.mark.long  # 15 s
def test_cascade_is_as_strong_as_the_worst_case(tiny_cnn):
    x = make_images(rows=20, shape=(8, 8, 1))
    labels = jnp.argmax(tiny_cnn(x), axis=-1).astype(jnp.int32)
    members = (FGSM(eps=0.1), BIM(eps=0.1, step_size=0.03, steps=6), PGD(eps=0.1, step_size=0.03, steps=6))
    success = {
        kind: np.asarray(judge(tiny_cnn, x, kind(members)(tiny_cnn, x, labels, key=KEY), labels).success)
        for kind in (Cascade, WorstCase)
    }
    np.testing.assert_array_equal(success[Cascade], success[WorstCase])
    x_adv = Cascade(members)(tiny_cnn, x, labels, key=KEY)
    assert violations(x, x_adv, 0.1, "linf") == 0
    # The first success stays: rows that FGSM takes come back as FGSM made them.
    first = np.asarray(FGSM(eps=0.1)(tiny_cnn, x, labels))
    taken = np.asarray(judge(tiny_cnn, x, first, labels).success) == 1
    np.testing.assert_array_equal(np.asarray(x_adv)[taken], first[taken])


def test_cascade_spends_nothing_on_the_fallen(linear):
    """With jit off the sizes of the batches that the second attack sees can be counted."""
    x = make_images(rows=32)
    labels = jnp.argmax(linear(x), axis=-1).astype(jnp.int32)
    labels = labels.at[:30].set((labels[:30] + 1) % 3)  # wrong already: FGSM at eps 0 takes them
    seen = []

    class Watched(FGSM):
        def __call__(self, model, x, labels, *, key=None):
            seen.append(len(x))
            return FGSM.__call__(FGSM(eps=self.eps), model, x, labels, key=key)

    with jax.disable_jit():
        Cascade((FGSM(eps=0.0), Watched(eps=0.3)))(linear, x, labels)
    assert seen == [8]


def test_cascade_takes_the_survivors_and_leaves_the_fallen_as_they_fell(linear):
    """A batch of the second attack has room for six more rows than there are survivors."""
    x = make_images(rows=32)
    labels = jnp.argmax(linear(x), axis=-1).astype(jnp.int32)
    survives = np.isin(np.arange(32), (5, 30))
    labels = jnp.where(survives, labels, (labels + 1) % 3)  # wrong already: FGSM at eps 0 takes the others
    strong = FGSM(eps=0.3)
    x_adv = np.asarray(Cascade((FGSM(eps=0.0), strong))(linear, x, labels))
    alone = np.asarray(strong(linear, x, labels))
    np.testing.assert_array_equal(x_adv[survives], alone[survives])
    np.testing.assert_array_equal(x_adv[~survives], np.asarray(x)[~survives])
    assert (alone != np.asarray(x)).any(axis=(1, 2, 3)).all()  # planted: it would have moved every row
    outcome = judge(linear, x, x_adv, labels)
    assert not np.asarray(outcome.correct).any()
    np.testing.assert_array_equal(outcome.success, survives)  # the others were wrong already


def test_smallest_eps_scales_what_goes_with_eps():
    """The boundary lies 0.6 away, which steps and shares of the attack's own eps do not reach, or not so."""
    rows = 40
    model = Linear(jnp.array([[-1.0, 1.0]]), jnp.array([0.7, -0.7]))
    x, labels = jnp.full((rows, 1, 1, 1), 0.1), jnp.zeros(rows, jnp.int32)
    for inner, share in ((BIM(eps=0.1, step_size=0.05, steps=2), 1.0), (RFGSM(eps=0.1, alpha=0.05), 0.5)):
        x_adv = SmallestEps(inner, largest=0.9, search_steps=8)(model, x, labels, key=KEY)
        outcome = judge(model, x, x_adv, labels)
        won = np.asarray(outcome.success) == 1
        assert abs(won.mean() - share) <= 0.25  # a random half-step the wrong way undoes the other
        np.testing.assert_allclose(np.asarray(outcome.linf)[won], 0.6, atol=0.01)
        np.testing.assert_array_equal(np.asarray(outcome.linf)[~won], 0.0)


def test_cascade_refuses_mixed_goals_and_no_attacks(linear, images):
    with pytest.raises(ValueError, match="one goal"):
        Cascade((FGSM(), FGSM(targeted=True)))(linear, images, jnp.zeros(8, jnp.int32))
    with pytest.raises(ValueError, match="empty"):
        Cascade(())

"""The sanity invariants of honest results (original.md, G) that concern the gradient attacks.

Each test of a guarantee has its planted violation beside it: the same check, shown to fail.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Scaled

from attacks.checkers import ever_falls
from deepsec_jax.attacks import (
    ATTACKS,
    BIM,
    FGSM,
    ILLC,
    LLC,
    PGD,
    RFGSM,
    TMIFGSM,
    UMIFGSM,
    Restarts,
    WorstCase,
    losses,
    parts,
)
from deepsec_jax.attacks.geometry import project, steepest
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)
EPS = 0.15  # where attacks on the digits model differ from each other


def success(model, x, x_adv, labels, targets=None):
    return np.asarray(judge(model, x, x_adv, labels, targets=targets).success)


def gap(model, x, labels):
    return np.asarray(losses.logit_gap(model(x), labels))


@pytest.mark.long  # 17 s
def test_g2_worst_case_contains_its_members(digits_model):
    model, x, labels = digits_model
    fgsm, bim = FGSM(eps=EPS), BIM(eps=EPS, step_size=EPS / 6, steps=15)
    pgd = Restarts(PGD(eps=EPS, step_size=EPS / 6, steps=15), n=2)
    groups = [(fgsm,), (fgsm, bim), (fgsm, bim, pgd)]
    rates = [success(model, x, WorstCase(g)(model, x, labels, key=KEY), labels) for g in groups]
    assert not ever_falls(rates)
    alone = [success(model, x, a(model, x, labels, key=KEY), labels) for a in (fgsm, bim, pgd)]
    # Alone, the order holds to a point where the attacks have room: at the paper's eps.
    plain = [success(model, x, a(model, x, labels, key=KEY), labels).mean() for a in (FGSM(), BIM(), PGD())]
    assert plain[1] >= plain[0] - 0.01 and plain[2] >= plain[1] - 0.01
    for one in alone:
        assert (rates[-1] >= one).all()
    # Planted: taking the last attack's result instead of the best loses examples somewhere.
    assert ever_falls([success(model, x, bim(model, x, labels), labels), success(model, x, x, labels)])


def last_iterate(model, x, labels, steps, step_size):
    """A plain loop that returns its last iterate: what keep-best is there to prevent."""
    gradient = jax.jit(jax.grad(lambda image: losses.logit_gap(model(image), labels).sum()))
    x_i = x
    for _ in range(steps):
        x_i = project(x_i + step_size * steepest(gradient(x_i), "linf"), x, EPS, "linf")
    return x_i


def test_g3_more_steps_never_lose_an_example(digits_model):
    model, x, labels = digits_model
    steps = (1, 2, 3, 5, 8)
    step_size = EPS  # a coarse step: the plain loop overshoots
    best = [BIM(eps=EPS, step_size=step_size, steps=n)(model, x, labels) for n in steps]
    assert not ever_falls([success(model, x, x_adv, labels) for x_adv in best])
    failed = np.asarray([success(model, x, x_adv, labels) for x_adv in best]) == 0
    loss = np.asarray([gap(model, x_adv, labels) for x_adv in best])
    for before in range(len(steps) - 1):  # among failures the loss grows; a success may have a smaller gap
        both = failed[before] & failed[before + 1]
        assert (loss[before + 1][both] >= loss[before][both] - 1e-4).all()
    plain = [gap(model, last_iterate(model, x, labels, n, step_size), labels) for n in steps]
    assert ever_falls(plain)  # planted


def test_g3_carried_over_eps_never_lose_an_example(digits_model):
    model, x, labels = digits_model
    grid = (0.02, 0.1, 0.5)
    members = tuple(BIM(eps=eps, step_size=eps / 4, steps=5) for eps in grid)
    curve = [
        success(model, x, WorstCase(members[: n + 1])(model, x, labels), labels) for n in range(len(grid))
    ]
    assert not ever_falls(curve)
    assert curve[-1].mean() >= 0.9  # at eps 0.5 any image can be made grey
    rates = [success(model, x, member(model, x, labels), labels).mean() for member in members]
    assert not ever_falls(rates)


@pytest.mark.long  # 12 s; more steps are below
def test_g3_more_restarts_never_lose_an_example(digits_model):
    model, x, labels = digits_model
    attack = PGD(eps=0.1, step_size=0.05, steps=2)
    rates = [success(model, x, Restarts(attack, n=n)(model, x, labels, key=KEY), labels) for n in (1, 2, 4)]
    assert not ever_falls(rates)
    single = success(model, x, attack(model, x, labels, key=KEY), labels)
    np.testing.assert_array_equal(rates[0], single)  # the first restart is the attack itself
    fresh = [
        success(model, x, attack(model, x, labels, key=jax.random.key(seed)), labels) for seed in range(6)
    ]
    assert ever_falls(fresh)  # planted: independent draws do lose examples


def test_g4_strong_on_an_undefended_model(digits_model):
    model, x, labels = digits_model
    for attack in (BIM(), PGD(), UMIFGSM()):
        assert success(model, x, attack(model, x, labels, key=KEY), labels).mean() >= 0.99
    assert success(model, x, FGSM()(model, x, labels), labels).mean() >= 0.6


def test_g5_random_noise_is_weaker_than_fgsm(digits_model):
    model, x, labels = digits_model

    def noisy(key):
        return jnp.clip(x + EPS * jnp.sign(jax.random.normal(key, x.shape)), min=0.0, max=1.0)

    draws = np.stack([success(model, x, noisy(key), labels) for key in jax.random.split(KEY, 30)])
    by_gradient = success(model, x, FGSM(eps=EPS)(model, x, labels), labels)
    assert draws.mean() < by_gradient.mean()
    assert draws.max(axis=0).mean() <= success(model, x, BIM(eps=EPS)(model, x, labels), labels).mean()


@pytest.mark.parametrize("loss", ["logit_gap", "max_margin", "dlr"])
@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "umifgsm", "rfgsm"])
def test_g7_logits_times_100_do_not_protect(digits_model, name, loss):
    model, x, labels = digits_model
    attack = ATTACKS[name](loss=losses.LOSSES[loss])  # the paper's settings
    plain, sharp = (
        success(scaled, x, attack(scaled, x, labels, key=KEY), labels).mean()
        for scaled in (Scaled(model, jnp.float32(factor)) for factor in (1, 100))  # one compile for both
    )
    assert sharp >= plain - (0.02 if loss == "logit_gap" else 0.0)


def test_g7_planted_cross_entropy_is_masked_by_sharp_logits(digits_model):
    model, x, labels = digits_model
    attack = FGSM(eps=EPS, loss=losses.cross_entropy)
    plain, sharp = (
        success(scaled, x, attack(scaled, x, labels), labels).mean()
        for scaled in (Scaled(model, jnp.float32(factor)) for factor in (1, 100))
    )
    assert sharp < plain - 0.02


def test_g7_targeted_under_sharp_logits_is_no_weaker_than_max_margin(digits_model):
    model, x, labels = digits_model
    targets, sharp = (labels + 1) % 10, Scaled(model, 100.0)
    rates = {
        loss: success(
            sharp, x, TMIFGSM(eps=EPS, loss=losses.LOSSES[loss])(sharp, x, targets), labels, targets
        ).mean()
        for loss in ("logit_gap", "max_margin")
    }
    assert rates["logit_gap"] >= rates["max_margin"] - 1e-6


def add_constant(model, x):
    return model(x) + 7.0


def test_g7_a_constant_on_all_logits_changes_nothing(digits_model):
    model, x, labels = digits_model
    shifted = jax.tree_util.Partial(add_constant, model)
    plain, moved = (BIM(eps=EPS, steps=4)(m, x, labels) for m in (model, shifted))
    assert np.mean(np.abs(plain - moved) > 1e-5) <= 0.01


def test_g9_order_of_goals(digits_model):
    model, x, labels = digits_model
    wrong = (labels + 1 + jax.random.randint(KEY, labels.shape, 0, 9)) % 10
    wrong = jnp.where(wrong == labels, (labels + 1) % 10, wrong).astype(labels.dtype)
    values = {"eps": EPS, "step_size": EPS / 4, "steps": 10}
    untargeted = success(model, x, BIM(**values)(model, x, labels), labels).mean()
    random = success(model, x, BIM(**values, targeted=True)(model, x, wrong), labels, wrong).mean()
    illc = ILLC(**values)
    least = success(model, x, illc(model, x, labels), labels, illc.targets(model, x, labels)).mean()
    assert untargeted >= random >= least


def test_g10_the_family_agrees_where_it_meets(digits_model):
    model, x, labels = digits_model
    x, labels = x[:20], labels[:20]
    values = {"eps": EPS, "step_size": 0.05, "steps": 5}
    bim = BIM(**values)(model, x, labels)
    np.testing.assert_array_equal(UMIFGSM(**values, decay=0.0)(model, x, labels), bim)
    np.testing.assert_array_equal(PGD(**values, start=parts.at_input)(model, x, labels), bim)
    np.testing.assert_array_equal(
        PGD(**values, start=parts.at_input, rule=parts.Momentum(0.0))(model, x, labels), bim
    )
    np.testing.assert_array_equal(
        BIM(eps=EPS, step_size=EPS, steps=1)(model, x, labels), FGSM(eps=EPS)(model, x, labels)
    )
    np.testing.assert_array_equal(
        RFGSM(eps=EPS, alpha=0.0)(model, x, labels, key=KEY), FGSM(eps=EPS)(model, x, labels)
    )
    target = LLC().targets(model, x, labels)
    np.testing.assert_array_equal(
        LLC(eps=EPS)(model, x, labels), FGSM(eps=EPS, targeted=True)(model, x, target)
    )
    np.testing.assert_array_equal(
        TMIFGSM(**values, targeted=False)(model, x, labels), UMIFGSM(**values)(model, x, labels)
    )
    assert np.any(UMIFGSM(**values, decay=1.0)(model, x, labels) != bim)  # momentum is not a no-op


def test_g14_same_bytes_after_save_and_reload(digits_model, tmp_path):
    model, x, labels = digits_model
    x_adv = PGD(eps=EPS)(model, x, labels, key=KEY)
    np.save(tmp_path / "x_adv.npy", x_adv)
    again = np.load(tmp_path / "x_adv.npy")
    np.testing.assert_array_equal(again, PGD(eps=EPS)(model, x, labels, key=KEY))
    np.testing.assert_array_equal(success(model, x, x_adv, labels), success(model, x, again, labels))


def test_least_likely_is_the_argmin_of_clean_logits(digits_model):
    model, x, labels = digits_model
    np.testing.assert_array_equal(LLC().targets(model, x, labels), np.argmin(np.asarray(model(x)), axis=1))

"""One attack at several budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax.attacks import (
    APGD,
    FGSM,
    PGD,
    RFGSM,
    Cascade,
    DeepFool,
    Restarts,
    WorstCase,
    over_eps,
    run_all,
    with_eps,
)
from deepsec_jax.evaluation import judge


def test_steps_keep_their_ratio_to_eps():
    assert with_eps(PGD(eps=0.2, step_size=0.05, steps=7, norm=2), 0.1) == PGD(
        eps=0.1, step_size=0.025, steps=7, norm=2
    )
    assert with_eps(RFGSM(eps=0.2, alpha=0.05), 0.4) == RFGSM(eps=0.4, alpha=0.1)
    assert with_eps(FGSM(), 0.1) == FGSM(eps=0.1) and with_eps(APGD(), 0.1) == APGD(eps=0.1)


def test_attacks_inside_attacks_are_reached():
    inner, other = PGD(eps=0.2, step_size=0.05), PGD(eps=0.1, step_size=0.025)
    assert with_eps(Restarts(inner, n=3), 0.1) == Restarts(other, n=3)
    assert with_eps(WorstCase((inner, FGSM(eps=0.2))), 0.1) == WorstCase((other, FGSM(eps=0.1)))
    mixed = with_eps(Cascade((inner, DeepFool(steps=3))), 0.1)
    assert mixed == Cascade((other, DeepFool(steps=3)))


def test_an_attack_without_eps_is_refused():
    for attack in (DeepFool(), Restarts(DeepFool(), n=2)):
        with pytest.raises(ValueError, match="has no eps: give an attack with a budget"):
            with_eps(attack, 0.1)
    with pytest.raises(ValueError, match="same to four digits"):
        over_eps(PGD(), [0.1, 0.1])


def test_a_curve_of_success():
    model, x = make_linear(), make_images(rows=40)
    labels = np.asarray(jnp.argmax(model(x), axis=-1))
    values = [0.0, 1 / 255, 4 / 255, 16 / 255, 64 / 255]
    grid = over_eps(PGD(eps=0.3, step_size=0.1, steps=5), values)
    assert list(grid) == ["eps=0", "eps=0.003922", "eps=0.01569", "eps=0.06275", "eps=0.251"]
    assert len({jax.tree.structure(attack) for attack in grid.values()}) == 1  # one program
    made = run_all(grid, model, np.asarray(x), labels, key=jax.random.key(0))
    curve = [float(judge(model, x, x_adv, labels).success.mean()) for x_adv in made.values()]
    assert curve[0] == 0.0 and curve == sorted(curve) and curve[-1] > 0.5
    for eps, x_adv in zip(values, made.values(), strict=True):
        assert np.abs(x_adv - np.asarray(x)).max() <= eps + 1e-6

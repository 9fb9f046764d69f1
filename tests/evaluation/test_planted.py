"""Planted defenses are caught: deepsec robustness fools them as the undefended network, or closes a gate."""

import jax
import jax.numpy as jnp
import pytest
from conftest import make_linear
from planted import STRENGTHS, defended, fitted

from deepsec_jax import attacks, data, evaluation
from deepsec_jax.models import Scaled
from deepsec_jax.studies.verdict.gates import gates

EPS, N = 0.15, 100


def ask(model, dataset, eps=EPS):
    """Robust accuracy, and the labels of closed gates."""
    cells = evaluation.robustness(
        model, dataset, n=N, eps=eps, version="fast", steps=10, batch_size=50, model_name="mine"
    ).cells
    return cells[0].columns["robust"].mean(), {gate.finding.label for gate in gates(cells) if gate.closed}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def base(digits):
    return fitted(digits.train.images, digits.train.labels)


@pytest.fixture(scope="module")
def undefended(base, digits):
    return ask(base, digits)


def check(kind, base, digits, undefended):
    x = jnp.asarray(digits.test.images)
    x_adv = attacks.PGD(eps=EPS, step_size=EPS / 5)(base, x, base(x).argmax(1), key=jax.random.key(0))
    for strength in STRENGTHS[kind]:
        robust, closed = ask(defended(kind, strength, base, digits, x_adv), digits)
        assert closed or robust <= undefended[0] + 0.05, (kind, strength, robust)


def test_temperature_is_caught_on_a_linear_model():
    """All strengths share their programs; strength 1 is the undefended model, which is not accused."""
    model = make_linear()
    x = jax.random.uniform(jax.random.key(1), (N, 4, 4, 1))
    dataset = (x, model(x).argmax(1))
    robust, closed = ask(Scaled(model, 1.0), dataset, eps=0.05)
    assert 0 < robust < 1 and not closed
    for strength in STRENGTHS["temperature"]:
        assert ask(Scaled(model, strength), dataset, eps=0.05)[0] <= robust + 0.05


@pytest.mark.long
def test_the_undefended_network_is_not_accused(undefended):
    assert undefended[0] < 0.05 and not undefended[1]


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(STRENGTHS))
def test_planted_defenses_are_caught(kind, base, digits, undefended):
    check(kind, base, digits, undefended)

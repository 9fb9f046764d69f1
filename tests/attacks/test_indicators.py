"""The six indicators of attack failure: each sees its planted failure, and accuses no honest attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, Noisy, make_images, make_linear

from deepsec_jax import attacks
from deepsec_jax.attacks.ascent import Trace
from deepsec_jax.attacks.indicators import (
    RADIUS,
    incomplete_optimisation,
    silent_success,
    unstable_predictions,
)
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import example_keys

KEY = jax.random.key(7)
MODEL = make_linear()
X = 0.25 + 0.5 * make_images(24)
Y = MODEL(X).argmax(1)
EPS = 0.05
APGD = attacks.APGD(eps=EPS, steps=30, stops=False)
PGD = attacks.PGD(eps=EPS, step_size=0.02, steps=12)


class Levels(Struct):
    """A model behind 32 levels: no gradient."""

    base: Linear

    def __call__(self, x):
        return self.base(jnp.round(x * 31) / 31)


class Astray(Struct):
    """A model whose gradient is that of its opposite."""

    base: Linear

    def __call__(self, x):
        logits = self.base(x)
        return 2.0 * jax.lax.stop_gradient(logits) - logits


class Last(Struct):
    """PGD that returns its last iterate, which is the clean image: the mistake of many attacks."""

    eps: float = EPS
    norm: str = static("linf")
    inner: attacks.PGD = PGD

    def trace(self, model, x, labels, keys):
        found = self.inner.replace(eps=self.eps).trace(model, x, labels, keys)
        return Trace(x, found.losses, found.success)


def of(attack=APGD, model=MODEL, **more):
    found = attacks.indicators(attack, model, X, Y, key=KEY, **more)
    values = {name: np.asarray(value) for name, value in found._asdict().items()}
    for name, value in values.items():
        assert value.shape == (len(X),) and ((value >= 0) & (value <= 1)).all(), name
    return values


@pytest.fixture(scope="module")
def honest():
    return of()


def test_an_honest_attack_on_an_honest_model_raises_none(honest):
    assert 0 < honest["survived"].sum() < len(X)
    for name in attacks.INDICATORS:
        limit = 0.3 if name == "unstable_predictions" else 0.0  # images near the boundary
        assert np.median(honest[name]) <= limit, name
    assert honest["incomplete_optimisation"].max() < 0.05
    weak = of(PGD)
    assert not any(weak[name].any() for name in ("silent_success", "transfer_failure"))


def test_no_gradient():
    found = of(model=Levels(MODEL))
    assert found["unavailable_gradients"].all()
    np.testing.assert_array_equal(of(model=Levels(MODEL), surrogate=MODEL)["unavailable_gradients"], 0)


def test_unstable_predictions_are_those_of_a_count(honest):
    """Two classes: L is linear, so the mean over moves can be counted without the model."""
    two = Linear(MODEL.weights[:, :2], MODEL.bias[:2])
    labels = two(X).argmax(1)
    found = unstable_predictions(two, X, labels, example_keys(KEY, len(X)))
    way = np.asarray(two.weights[:, 1] - two.weights[:, 0], np.float64)
    here = np.asarray(two(X), np.float64)
    moves = np.random.default_rng(0).uniform(-RADIUS, RADIUS, (4000, len(way)))
    wanted = np.abs(moves @ way).mean() / np.abs(here[:, 1] - here[:, 0])
    np.testing.assert_allclose(found, np.minimum(wanted, 1), rtol=0.2)
    noisy = of(model=Noisy(MODEL, jax.random.split(KEY, len(X)), 1.0))
    assert noisy["unstable_predictions"].mean() > 2 * honest["unstable_predictions"].mean()


def test_silent_success():
    found = of(Last())
    reached = np.asarray(attacks.PGD(eps=EPS, step_size=0.02, steps=12)(MODEL, X, Y, key=KEY))
    fooled = np.asarray(MODEL(reached)).argmax(1) != np.asarray(Y)
    assert fooled.any() and found["silent_success"].mean() == pytest.approx(fooled.mean(), abs=0.1)
    by_hand = Trace(X, jnp.zeros((3, 3)), jnp.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], bool))
    np.testing.assert_array_equal(silent_success(by_hand, jnp.array([False, False, True])), [1, 0, 0])


def test_incomplete_optimisation():
    slow = of(attacks.PGD(eps=EPS, step_size=EPS / 100, steps=20))
    stopped = slow["survived"] > 0
    assert (slow["incomplete_optimisation"][stopped] > 0.05).all()
    assert not slow["incomplete_optimisation"][~stopped].any()
    losses = jnp.array([[0.0, 0, 0, 0], *[[5, 9, 0, jnp.nan]] * 9, [10, 8, -1, jnp.nan]])
    np.testing.assert_allclose(incomplete_optimisation(losses), [0.5, 0, 0, 0])


def test_transfer_failure(honest):
    away = Linear(-MODEL.weights, -MODEL.bias)
    found = of(surrogate=away)
    assert found["transfer_failure"].mean() > 0.5
    assert not honest["transfer_failure"].any()


def test_a_misleading_gradient_fails_without_a_bound():
    assert of(model=Astray(MODEL))["unconstrained_failure"].mean() > 0.2
    l2 = of(attacks.APGD(eps=0.2, norm="l2", steps=30, stops=False))
    assert not l2["unconstrained_failure"].any()


@pytest.mark.parametrize("attack", [APGD.replace(stops=True), APGD.replace(aims=2), PGD])
def test_a_trace_is_of_the_run_itself(attack):
    keys = example_keys(KEY, len(X))
    trace = jax.jit(lambda x: attack.trace(MODEL, x, Y, keys))(X)
    x_adv = attack(MODEL, X, Y, key=keys)
    np.testing.assert_allclose(trace.x, x_adv, atol=1e-6)
    steps = attack.steps + 1
    assert trace.losses.shape == trace.success.shape == (steps * max(1, getattr(attack, "aims", 0)), len(X))
    fooled = np.asarray(MODEL(x_adv)).argmax(1) != np.asarray(Y)
    np.testing.assert_array_equal(np.asarray(trace.success).any(0), fooled)


def test_what_has_no_trace_is_refused():
    with pytest.raises(TypeError, match="FGSM has no trace"):
        attacks.indicators(attacks.FGSM(eps=0.1), MODEL, X, Y, key=KEY)
    with pytest.raises(TypeError, match="untargeted"):
        attacks.indicators(APGD.replace(targeted=True), MODEL, X, Y, key=KEY)

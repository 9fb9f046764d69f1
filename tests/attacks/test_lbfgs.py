"""L-BFGS in the box against scipy's L-BFGS-B: same objective, same start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images
from scipy import optimize

from deepsec_jax.attacks.blb import missing
from deepsec_jax.attacks.lbfgs import lbfgs_start, lbfgs_step, trial_point


def minimise(objective, x, steps=100, memory=10):
    """Return the values reached and whether all rows converged."""
    both = jax.jit(jax.vmap(jax.value_and_grad(objective)))
    advance = jax.jit(lbfgs_step)
    state, rows = lbfgs_start(x, memory), jnp.arange(len(x))
    converged = np.zeros(len(x), bool)
    for _ in range(steps):
        state, _, done = advance(state, *both(trial_point(state), rows))
        converged |= np.asarray(done)
        assert float(state.x.min()) >= 0 and float(state.x.max()) <= 1
    return np.asarray(state.value, np.float64), converged, state


def scipys(objective, x):
    both = jax.jit(jax.value_and_grad(objective))

    def one(row):
        def function(point):
            value, gradient = both(jnp.asarray(point, jnp.float32), row)
            return float(value), np.asarray(gradient, np.float64)

        bounds = [(0, 1)] * x.shape[1]
        return optimize.minimize(
            function, np.asarray(x[row], np.float64), jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": 1000},
        ).fun  # fmt: skip

    return np.array([one(row) for row in range(len(x))])


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_quadratics_in_the_box(condition):
    """Convex with the box active: the same optimum as scipy's."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    matrix = jnp.asarray(basis @ np.diag(np.geomspace(1, condition, 12)) @ basis.T, jnp.float32)
    centres = jnp.asarray(rng.uniform(-0.5, 1.5, size=(6, 12)), jnp.float32)

    def objective(point, row):
        delta = point - centres[row]
        return delta @ matrix @ delta

    x = jnp.asarray(rng.uniform(size=(6, 12)), jnp.float32)
    ours, converged, state = minimise(objective, x, steps=200)
    theirs = scipys(objective, x)
    assert converged.all()
    assert ((np.asarray(state.x) == 0) | (np.asarray(state.x) == 1)).any(), "the box is active"
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.long  # 16 s for each c; the closed forms are above
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_blbs_objective_on_a_network(c, digits_model):
    model, images, labels = digits_model
    images, targets = images[:20], (labels[:20] + 1) % 10
    flat, sharpness = images.reshape(20, -1), jnp.ones(20)

    def objective(point, row):
        logits = model(point.reshape(1, 8, 8, 1))
        lost = missing(logits, targets[row][None], sharpness[row][None], targeted=True)[0]
        return jnp.sum((point - flat[row]) ** 2) + c * lost

    ours, _, _ = minimise(objective, flat)
    ratio = ours / scipys(objective, flat)
    assert np.median(ratio) <= 1.02 and np.quantile(ratio, 0.95) <= 1.10, ratio
    # Planted: three steps are not enough, and the bar sees it.
    early, _, _ = minimise(objective, flat, steps=3)
    assert np.median(early / scipys(objective, flat)) > 1.02 or c < 1


def test_a_row_does_not_wait_for_another():
    """Rows of very different scale: each ends where it would have ended alone."""
    x = make_images(rows=4, shape=(3, 3, 1)).reshape(4, 9)
    scales = jnp.asarray([1.0, 10.0, 1e3, 1e-2])

    def objective(point, row):
        return scales[row] * jnp.sum((point - 0.3) ** 2 * (1 + jnp.arange(9.0)))

    together, _, _ = minimise(objective, x)
    for row in range(4):
        alone, _, _ = minimise(lambda point, _, row=row: objective(point, row), x[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-5, atol=1e-7)

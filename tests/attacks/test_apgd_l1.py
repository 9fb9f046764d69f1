"""APGD in L1 against scipy's linear programmes, its projection, its parts, and its count of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Linear, make_images, make_linear
from scipy import optimize

from attacks.exact import load
from attacks.optima import closest_l1, optimum
from deepsec_jax.attacks import APGDL1, AutoAttack, count_calls
from deepsec_jax.attacks.apgd_l1 import _begin, _looked_back, _sparse_sign, part_steps
from deepsec_jax.attacks.balls import onto_l1_ball_in_box, size_of
from deepsec_jax.evaluation import judge

KEY = jax.random.key(2)


def test_the_projection_is_scipys():
    """min ||z - point||^2 with |z - clean|_1 <= radius in the box; the sum of up and down is the L1 norm."""
    clean = jnp.array([0.0, 0.1, 0.9, 1.0, 0.5, 0.5]).reshape(1, 2, 3, 1).repeat(3, axis=0)
    point = clean + jax.random.normal(KEY, clean.shape)
    radius = jnp.array([0.2, 0.8, 50.0])
    found = onto_l1_ball_in_box(point, clean, radius)
    for row in range(3):
        middle, wanted = (np.asarray(part[row], np.float64).ravel() for part in (clean, point))
        bound = {"type": "ineq", "fun": lambda v, r=float(radius[row]): r - v.sum()}
        solved = optimize.minimize(
            lambda v, m=middle, w=wanted: np.sum((m + v[:6] - v[6:] - w) ** 2), np.full(12, 1e-3),
            method="SLSQP", bounds=[*((0, 1 - c) for c in middle), *((0, c) for c in middle)],
            constraints=[bound], options={"maxiter": 500, "ftol": 1e-14},
        )  # fmt: skip
        best = middle + solved.x[:6] - solved.x[6:]
        np.testing.assert_allclose(np.asarray(found[row]).ravel(), best, atol=3e-3)
    inside = clean + 0.01
    kept = onto_l1_ball_in_box(jnp.clip(inside, max=1.0), clean, radius)
    np.testing.assert_allclose(kept, jnp.clip(inside, max=1.0), atol=1e-6)
    assert (np.asarray(size_of(found - clean, "l1")) <= np.asarray(radius)).all()


def test_of_a_linear_model_exactly_the_images_within_eps_fall():
    model = make_linear(classes=2, seed=4)
    x = make_images(rows=16, seed=5)
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    distance = np.asarray(optimum(model, x, labels, (labels + 1) % 2, closest_l1))
    eps = float(np.median(distance))
    x_adv = APGDL1(eps=eps)(model, x, labels, key=KEY)
    fell = np.asarray(judge(model, x, x_adv, labels).success) == 1
    clear = np.abs(distance - eps) > 2e-3 * eps
    np.testing.assert_array_equal(fell[clear], (distance < eps)[clear])
    size = np.abs(np.asarray(x_adv - x, np.float64)).sum(axis=(1, 2, 3))
    assert (size <= eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("network", ["plain", "robust"])
def test_no_image_falls_that_is_proven_robust_and_most_others_do(network):
    table = load(network)
    lower, upper = table.lower["l1"], table.upper["l1"]
    eps = float(np.median(upper))
    attack = APGDL1(eps=eps, aims=5, restarts=2)
    x_adv = attack(table.model, table.images, table.labels, key=KEY)
    fell = np.asarray(judge(table.model, table.images, x_adv, table.labels).success) == 1
    assert not (fell & (lower > eps + 1e-4)).any()
    assert (fell & (upper < eps - 1e-4)).sum() >= 0.7 * (upper < eps - 1e-4).sum()


@pytest.mark.long  # 17 s
def test_autoattack_in_l1_comes_closer_to_what_is_proven():
    table = load("plain").first(12)
    eps = float(np.median(table.upper["l1"]))
    fell = {}
    for version in ("standard", "fast"):
        attack = AutoAttack(eps=eps, norm="l1", version=version)
        x_adv = attack(table.model, table.images, table.labels, key=KEY)
        fell[version] = np.asarray(judge(table.model, table.images, x_adv, table.labels).success) == 1
        assert not (fell[version] & (table.lower["l1"] > eps + 1e-4)).any()
    assert fell["standard"].sum() == (table.upper["l1"] < eps - 1e-4).sum() >= fell["fast"].sum()


def test_gradients_are_counted_and_parts_add_up():
    assert [part_steps(steps) for steps in (100, 10, 3)] == [(30, 30, 40), (3, 3, 4), (1, 1, 1)]
    model = make_linear(classes=3)
    x = make_images(rows=4)
    right = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    labels = right.at[0].set((right[0] + 1) % 3)
    spent = count_calls(APGDL1(eps=1e-4, steps=10, restarts=2), model, x, labels, key=KEY)
    np.testing.assert_array_equal(spent.gradients[1:], [2 * 13] * 3)
    aimed = APGDL1(eps=1e-4, steps=10, aims=9, nearest=True)
    spent = count_calls(aimed, model, x, labels, key=KEY)
    np.testing.assert_array_equal(spent.gradients[1:], [2 * 13 + 3] * 3)
    with pytest.raises(ValueError, match="aims must be 0"):
        APGDL1(targeted=True, aims=2)


def test_a_step_is_sparse_and_has_length_one():
    gradient = jnp.array([[4.0, -3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]).reshape(2, 2, 2, 1)
    step = np.asarray(_sparse_sign(gradient, jnp.array([0.5, 0.5]))).reshape(2, 4)
    np.testing.assert_allclose(step, [[0.5, -0.5, 0.0, 0.0], [0.0] * 4])


def test_checkpoints_by_hand():
    """Fewer changed entries: back to the best point at full length.  As many: a shorter step."""
    clean = jnp.full((2, 2, 5, 1), 0.5)
    radius = jnp.array([1.0, 1.0])
    climb = _begin(clean, clean.at[:, :, :4].add(0.1), radius)
    np.testing.assert_allclose(climb.changed, [8, 8])
    best = climb.best_x.at[0, 1].set(0.5)  # four changed entries left
    climb = climb._replace(best_x=best, moves=jnp.array([1, 1]), size=jnp.array([0.3, 0.3]))
    after, gradient = _looked_back(100, jnp.array([0, 0]), climb, jnp.ones_like(clean), clean, radius)
    np.testing.assert_allclose(after.size, [1.0, 0.2])
    np.testing.assert_allclose(after.share, [4 / 15, 8 / 15], rtol=1e-6)
    np.testing.assert_array_equal(after.x[0], best[0])
    assert float(gradient[0].max()) == 0.0 and float(gradient[1].min()) == 1.0


def test_an_image_outside_eps_is_no_result():
    """Class 1 is reached at 1.5 in L1 only: the parts in the larger balls meet it, the result does not."""
    model = Linear(jnp.stack([jnp.zeros(16), jnp.ones(16)], 1), jnp.array([9.5, 0.0]))
    x, labels = jnp.full((1, 4, 4, 1), 0.5), jnp.zeros(1, jnp.int32)
    x_adv = APGDL1(eps=1.0)(model, x, labels, key=KEY)
    assert float(size_of(x_adv - x, "l1")[0]) <= 1.0 and int(model(x_adv).argmax()) == 0
    assert int(model(APGDL1(eps=1.6)(model, x, labels, key=KEY)).argmax()) == 1

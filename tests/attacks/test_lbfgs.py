"""L-BFGS in the box against scipy's L-BFGS-B: same objective, same start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Scaled, make_images, make_linear
from scipy import optimize
from scipy.optimize._dcsrch import DCSRCH

from deepsec_jax.attacks import blb
from deepsec_jax.attacks.blb import BLB, longest_first_move, missing
from deepsec_jax.attacks.box_model import in_order, model_minimum, running_sums
from deepsec_jax.attacks.call import count_calls
from deepsec_jax.attacks.lbfgs import lbfgs_start, lbfgs_step, trial_point
from deepsec_jax.attacks.more_thuente import search_start, search_step


def minimise(objective, x, steps=100, memory=10, longest=jnp.inf):
    """Return the values reached and whether all rows converged."""
    both = jax.jit(jax.vmap(jax.value_and_grad(objective)))
    advance = jax.jit(lbfgs_step)
    state, rows = lbfgs_start(x, memory, longest), jnp.arange(len(x))
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


def test_trial_points_lie_on_the_way_to_the_aim_and_in_the_box():
    state = lbfgs_start(jnp.asarray([[0.2, 0.8, 1.0]]), 2)
    state = state._replace(aim=jnp.asarray([[0.4, 0.0, 1.0]]))
    for step, expected in ((0.5, [0.3, 0.4, 1.0]), (0.25, [0.25, 0.6, 1.0]), (1.0, [0.4, 0.0, 1.0])):
        at = state._replace(search=state.search._replace(step=jnp.asarray([step])))
        np.testing.assert_allclose(trial_point(at)[0], expected, atol=1e-6)
    far = state._replace(search=state.search._replace(step=jnp.asarray([2.0])))
    np.testing.assert_allclose(trial_point(far)[0], [0.6, 0.0, 1.0], atol=1e-6)


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


@pytest.mark.parametrize("reach", [0.8, 1.5])
def test_rosenbrocks_valley_in_the_box(reach):
    """The optimum at 1 lies outside the box in one case and inside in the other."""

    def objective(point, _):
        u = reach * point
        return jnp.sum(100 * (u[1:] - u[:-1] ** 2) ** 2 + (1 - u[:-1]) ** 2)

    x = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 4)), jnp.float32)
    ours, _, _ = minimise(objective, x, steps=300)
    np.testing.assert_allclose(ours, scipys(objective, x), rtol=1e-3, atol=1e-4)


def dense_minimum(x, gradient, moves, turns):
    """The same by the dense Hessian, a fine grid along the projected gradient and one linear system."""
    size = len(x)
    hessian = turns[-1] @ turns[-1] * np.eye(size)
    for move, turn in zip(moves, turns, strict=True):
        if move.any():
            bent = hessian @ move
            hessian += np.outer(turn, turn) / (move @ turn) - np.outer(bent, bent) / (move @ bent)
    ways = np.clip(x - np.linspace(0, 2, 20001)[:, None] * gradient, 0, 1) - x
    values = ways @ gradient + 0.5 * np.sum((ways @ hessian) * ways, axis=1)
    cauchy = x + ways[np.argmax(np.diff(values) >= 0)]
    free = (cauchy > 0) & (cauchy < 1)
    left = (gradient + hessian @ (cauchy - x))[free]
    end = cauchy.copy()
    end[free] -= np.linalg.solve(hessian[np.ix_(free, free)], left)
    end = np.clip(end, 0, 1)
    assert (end - x) @ gradient < 0
    return end


@pytest.mark.parametrize("seed", range(4))
def test_the_model_is_smallest_where_the_dense_one_is(seed):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    moves = rng.normal(size=(5, 30))
    moves[0] = 0  # an empty slot
    turns = moves @ basis @ np.diag(np.geomspace(0.3, 5, 30)) @ basis.T
    scale = np.sqrt(np.maximum(np.sum(moves * turns, axis=1), 1e-12))[:, None]
    moves, turns = moves / scale, turns / scale
    x = np.concatenate([np.zeros(5), np.ones(4), rng.uniform(size=21)])
    gradient = 3 * rng.normal(size=30)
    found = jax.jit(model_minimum)(*(jnp.asarray(part, jnp.float32) for part in (x, gradient, moves, turns)))
    right = dense_minimum(x, gradient, moves, turns)
    np.testing.assert_allclose(np.asarray(found), right, atol=1e-3)
    # Planted: a guess without its earliest pair is another one, and the tolerance sees it.
    moves[1] = turns[1] = 0
    assert np.abs(dense_minimum(x, gradient, moves, turns) - right).max() > 1e-3


@pytest.mark.parametrize("size", [1, 7, 784, 3072, 20_000])
def test_breaks_in_order(size):
    breaks = np.random.default_rng(size).exponential(size=size).astype(np.float32)
    breaks[:: max(2, size // 3)], breaks[:1] = np.inf, 0.0
    rounded, ends, order = (np.asarray(part) for part in jax.jit(in_order)(jnp.asarray(breaks)))
    np.testing.assert_array_equal(ends, np.sort(rounded))
    np.testing.assert_array_equal(ends, rounded[order])
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    np.testing.assert_allclose(rounded, breaks, rtol=1e-3)


@pytest.mark.parametrize("shape", [(1,), (2, 17), (20, 784)])
def test_running_sums_are_numpys(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    forth, back = running_sums(jnp.asarray(values)), running_sums(jnp.asarray(values), reverse=True)
    np.testing.assert_allclose(forth, np.cumsum(values, axis=-1), atol=1e-4)
    np.testing.assert_allclose(back, np.cumsum(values[..., ::-1], axis=-1)[..., ::-1], atol=1e-4)


def test_line_search_takes_scipys_steps():
    """Until it ends it looks at the points of scipy's port of MINPACK-2's search, in the same order."""
    rng = np.random.default_rng(0)
    advance = jax.jit(search_step)
    for _ in range(60):
        a, b, c, d, e = rng.normal(size=5) * 10 ** rng.uniform(-1, 1, size=5)

        def value(t, a=a, b=b, c=c, d=d, e=e):
            return a * np.sin(b * t) + c * np.cos(d * t) + e**2 * t * t

        def slope(t, a=a, b=b, c=c, d=d, e=e):
            return a * b * np.cos(b * t) - c * d * np.sin(d * t) + 2 * e**2 * t

        way = -np.sign(slope(0.0))
        theirs, ours = [], []

        def looked(t, way=way, value=value, theirs=theirs):
            theirs.append(t)
            return value(way * t)

        largest = rng.choice([1.0, 3.0, 100.0])
        DCSRCH(looked, lambda t, way=way, slope=slope: way * slope(way * t), 1e-3, 0.9, 0.1, 0.0, largest)(
            1.0, phi0=value(0.0), derphi0=way * slope(0.0), maxiter=20
        )
        start = [jnp.asarray([part], jnp.float32) for part in (value(0.0), way * slope(0.0), largest)]
        search = search_start(*start)
        for _ in range(min(4, len(theirs))):  # later ones magnify float32's rounding
            t = float(search.step[0])
            ours.append(t)
            there = (value(way * t), way * slope(way * t))
            search, ends = advance(search, *(jnp.asarray([part], jnp.float32) for part in there))
            if bool(ends[0]):
                break
        np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-2)


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

    attack, theirs = BLB(), scipys(objective, flat)
    ends = [
        minimise(
            objective, flat, attack.steps // attack.descents, longest=longest_first_move(jnp.asarray(i))
        )[0]
        for i in range(attack.descents)
    ]
    ratio = np.min(ends, axis=0) / theirs
    assert np.median(ratio) <= 1.02 and np.quantile(ratio, 0.95) <= 1.10, ratio
    # Planted: three steps are not enough, and the bar sees it.
    early, _, _ = minimise(objective, flat, steps=3)
    assert np.median(early / theirs) > 1.02 or c < 1


@pytest.mark.long  # 30 s
def test_a_second_descent_only_adds(digits_model, monkeypatch):
    """Under one constant the first of two descents is the only one of one: no image ends further away."""
    monkeypatch.setattr(blb, "FAR", 0.5)  # these images are too small for a first move of 10
    model, images, labels = digits_model
    images, targets = images[:20], (labels[:20] + 1) % 10
    one, two = (
        count_calls(
            BLB(c=10.0, search_steps=1, steps=40 * n, descents=n, targeted=True), model, images, targets
        )
        for n in (1, 2)
    )
    distances = [np.linalg.norm((found.x - images).reshape(20, -1), axis=1) for found in (one, two)]
    hit = distances[0] > 0
    assert hit.any() and (distances[1] > 0)[hit].all()
    assert (distances[1] <= distances[0])[hit].all() and (distances[1] < 0.99 * distances[0])[hit].any()
    assert (two.gradients > one.gradients).all() and two.gradients.max() <= 80


def boundary():
    """A linear model of two classes, one image in the middle of the box, and how far the boundary is."""
    model, x = make_linear(classes=2, seed=3), 0.4 + 0.2 * make_images(1, seed=2)
    normal = np.asarray(model.weights, np.float64) @ [1, -1]
    gap = abs(float((model(x) @ jnp.asarray([1.0, -1.0]))[0]))
    labels = jnp.argmax(model(x), axis=-1).astype(jnp.int32)
    return model, x, labels, gap / np.linalg.norm(normal), np.linalg.norm(normal)


def reached(model, x, x_adv, labels):
    assert (jnp.argmax(model(x_adv), axis=-1) != labels).all()
    return float(jnp.linalg.norm(x_adv - x))


def test_a_trial_that_happens_to_succeed_does_not_end_the_rise_of_c():
    """The minimum of |d|^2 + c (g - |w| d) lies at c |w| / 2, but the first trial at c |w|.

    Under c = 1.5 g / |w|^2 the trial succeeds, half as far again as need be, and the minimum does not.
    """
    model, x, labels, distance, slope = boundary()
    attack = BLB(c=float(1.5 * distance / slope), steps=40)
    once = reached(model, x, attack.replace(search_steps=1)(model, x, labels), labels)
    assert once == pytest.approx(1.5 * distance, rel=0.05)
    twice = reached(model, x, attack.replace(search_steps=2)(model, x, labels), labels)
    assert twice < 1.1 * distance


@pytest.mark.parametrize("factor", [0.1, 1.0, 30.0])
def test_blbs_minimum_lies_as_near_to_the_boundary_on_any_scale_of_the_logits(factor):
    """Under five times the least c that succeeds: a loss that is softer than the logits are would go on."""
    model, x, labels, distance, slope = boundary()
    scaled, c = Scaled(model, jnp.float32(factor)), 5.0 * 2.0 * distance / (slope * factor)
    assert c < 50.0  # or it would start elsewhere
    found = reached(scaled, x, BLB(c=float(c), steps=60, search_steps=1)(scaled, x, labels), labels)
    assert distance <= found < 1.06 * distance


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

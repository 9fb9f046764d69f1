"""Fast searches for the smallest change against optima found by scipy, and projections against scipy too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear
from scipy import optimize

from attacks.optima import closest_l0, closest_l1, closest_l2, closest_linf, optimum
from deepsec_jax.attacks import DDN, FAB, FMN, PDPGD, DeepFool, SigmaZero, SuperDeepFool
from deepsec_jax.attacks.balls import onto_ball, size_of
from deepsec_jax.attacks.best_so_far import Closest
from deepsec_jax.attacks.fmn import _radius as fmn_radius
from deepsec_jax.attacks.planes import step_onto_plane
from deepsec_jax.attacks.proximal import proximal
from deepsec_jax.evaluation import judge
from deepsec_jax.pytree import Struct

KEY = jax.random.key(0)
CLOSEST = {"l0": closest_l0, "l1": closest_l1, "l2": closest_l2, "linf": closest_linf}
CASES = {
    "fmn l0": (FMN(norm="l0", steps=300), "l0", 1.0),
    "fmn l1": (FMN(norm="l1", steps=300), "l1", 1.02),
    "fmn l2": (FMN(norm="l2", steps=300), "l2", 1.02),
    "fmn linf": (FMN(norm="linf", steps=300), "linf", 1.02),
    "fab l1": (FAB(norm="l1"), "l1", 1.01),
    "fab l2": (FAB(norm="l2"), "l2", 1.01),
    "fab linf": (FAB(norm="linf"), "linf", 1.01),
    "ddn": (DDN(steps=300), "l2", 1.02),
    "sigma-zero": (SigmaZero(steps=300), "l0", 1.0),
    "pdpgd l0": (PDPGD(norm="l0", steps=300), "l0", 1.0),
    "pdpgd l1": (PDPGD(norm="l1", steps=300), "l1", 1.05),
    "pdpgd l2": (PDPGD(norm="l2", steps=300), "l2", 1.05),
    "pdpgd linf": (PDPGD(norm="linf", steps=300), "linf", 1.02),
    "superdeepfool": (SuperDeepFool(), "l2", 1.001),
}


def problem(classes=2):
    model = make_linear(classes=classes, seed=3, scale=2.0)
    x = make_images(rows=8, seed=2)
    x = jnp.where(x < 0.3, 0.0, jnp.where(x > 0.7, 1.0, x))  # the box is active
    return model, x, jnp.argmax(model(x), axis=-1).astype(jnp.int32)


def sizes(x, x_adv, norm):
    return np.asarray(size_of(jnp.asarray(x_adv) - x, norm))


@pytest.mark.parametrize("name", list(CASES))
def test_near_the_optimum(name):
    attack, norm, factor = CASES[name]
    model, x, labels = problem()
    x_adv = attack(model, x, labels)
    assert np.asarray(judge(model, x, x_adv, labels).success).all()
    best = optimum(model, x, labels, (labels + 1) % 2, CLOSEST[norm])
    found = sizes(x, x_adv, norm)
    assert np.median(found / best) <= factor and (found <= best * 1.1 + (norm == "l0")).all()
    assert (found >= best * 0.999).all(), "closer than the optimum: the oracle is wrong"


@pytest.mark.parametrize("name", [name for name in CASES if hasattr(CASES[name][0], "targeted")])
def test_targets_are_reached_and_failures_come_back_clean(name):
    attack, *_ = CASES[name]
    model, x, labels = problem(classes=3)
    targets = (labels + 1) % 3
    aimed = attack.replace(targeted=True, steps=100)
    reached = judge(model, x, aimed(model, x, targets), labels, targets=targets)
    assert np.asarray(reached.success).mean() >= 0.8
    never = model.replace(bias=jnp.array([1e4, 0.0, 0.0]))
    nothing = jnp.zeros(8, jnp.int32)
    np.testing.assert_array_equal(attack.replace(steps=5)(never, x, nothing), x)
    noisy = Noisy(model, jax.random.split(KEY, 8))
    assert bool(jnp.isfinite(attack.replace(steps=5)(noisy, x, labels, key=KEY)).all())


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_step_onto_a_plane_is_the_smallest(norm):
    """One face of a linear model, in a box that is active: scipy's linear or quadratic programme."""
    point = make_images(rows=6, seed=7)
    slope = jax.random.normal(KEY, point.shape).at[:, 0].set(0.0)
    gap = jnp.array([0.0, 0.1, 0.5, 1.0, 2.0, 100.0])
    step = np.asarray(step_onto_plane(point, slope, gap, norm), np.float64).reshape(6, -1)
    flat, rows = (np.asarray(part, np.float64).reshape(6, -1) for part in (point, slope))
    moved = flat + step
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    np.testing.assert_allclose((rows * step).sum(axis=1)[:5], gap[:5], atol=1e-5)
    farthest = np.maximum(rows * (1 - flat), -rows * flat).sum(axis=1)
    np.testing.assert_allclose((rows * step)[5].sum(), farthest[5], rtol=1e-5)
    for row in range(1, 5):
        best = CLOSEST[norm](flat[row], rows[row][None], np.asarray(gap[row], np.float64)[None])
        assert sizes(0.0, step[row].reshape(1, 4, 4, 1), norm)[0] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_projections_are_scipys(norm):
    delta = jax.random.normal(KEY, (3, 2, 2, 1))
    radius = jnp.array([0.5, 1.5, 100.0])
    found = np.asarray(onto_ball(delta, radius, norm)).reshape(3, 4)
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    for row, point in enumerate(np.asarray(delta, np.float64).reshape(3, 4)):
        # delta = up - down makes the L1 norm smooth; the other norms take the same variables.
        bound = {
            "type": "ineq",
            "fun": lambda v, r=float(radius[row]): (
                r - np.linalg.norm(v[:4] - v[4:], order) if norm != "l1" else r - v.sum()
            ),
        }
        solved = optimize.minimize(
            lambda v, p=point: np.sum((v[:4] - v[4:] - p) ** 2),
            np.zeros(8),
            method="SLSQP",
            bounds=[(0, None)] * 8,
            constraints=[bound],
            options={"maxiter": 500, "ftol": 1e-14},
        )
        np.testing.assert_allclose(found[row], solved.x[:4] - solved.x[4:], atol=2e-3)
    assert (sizes(0.0, onto_ball(delta, radius, norm), norm) <= np.asarray(radius) * (1 + 1e-6)).all()


def test_l0_keeps_the_largest_entries_and_no_more():
    delta = jnp.array([[3.0, -2.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0], [3.0, -2.0, 1.0, 0.5]]).reshape(
        3, 2, 2, 1
    )
    found = np.asarray(onto_ball(delta, jnp.array([2.0, 2.0, 4.0]), "l0")).reshape(3, 4)
    np.testing.assert_array_equal(found[0], [3.0, -2.0, 0.0, 0.0])
    assert (found[1] != 0).sum() == 2
    np.testing.assert_array_equal(found[2], [3.0, -2.0, 1.0, 0.5])


def test_of_equal_entries_some_are_kept():
    """All gains are equal: four of sixteen entries must change, and ties may not forbid it."""
    weights = jnp.stack([jnp.zeros(16), jnp.ones(16)], axis=1)
    model = make_linear(classes=2).replace(weights=weights, bias=jnp.array([9.6, 0.0]))
    x, labels = jnp.full((2, 4, 4, 1), 0.5), jnp.zeros(2, jnp.int32)
    x_adv = FMN(norm="l0", steps=300)(model, x, labels)
    assert np.asarray(judge(model, x, x_adv, labels).success).all()
    assert (sizes(x, x_adv, "l0") <= 6).all()


@pytest.mark.parametrize(
    ("norm", "dual"), [("l1", 4.0), ("l2", np.sqrt(4.0**2 + 2.0**2 + 1.0)), ("linf", 7.0), ("l0", None)]
)
def test_fmns_first_radius_reaches_the_linearised_boundary(norm, dual):
    """As far as |margin| / ||gradient||_dual; later a share gamma more, or less after a success."""
    gradient, ones = jnp.asarray([4.0, -2.0, 1.0, 0.0]).reshape(1, 2, 2, 1), jnp.ones(1)
    found = Closest(jnp.zeros((1, 2, 2, 1)), jnp.asarray([3.0]))
    none = found._replace(distance=jnp.asarray([jnp.inf]))

    def radius(reached, best, size):
        return float(
            fmn_radius(
                norm,
                5.0 * ones,
                0.1 * ones,
                jnp.asarray([reached]),
                size * ones,
                best,
                -14.0 * ones,
                gradient,
            )[0]
        )

    if norm == "l0":  # whole entries: 5.5 and 4.5 rounded down, at least one more or less
        assert (radius(False, none, 2.0), radius(True, none, 2.0), radius(True, found, 2.0)) == (
            6.0,
            4.0,
            3.0,
        )
        return
    assert radius(False, none, 2.0) == pytest.approx(2.0 + 14.0 / dual)
    assert radius(False, none, 1000.0) == pytest.approx(1100.0)
    assert radius(False, found, 2.0) == pytest.approx(5.5)
    assert radius(True, none, 2.0) == pytest.approx(4.5)
    assert radius(True, found, 2.0) == 3.0  # never beyond the closest success


PENALTIES = {
    "l0": lambda z: np.sum(np.abs(z) ** (2 / 3)),
    "l1": lambda z: np.sum(np.abs(z)),
    "l2": np.linalg.norm,
    "linf": lambda z: np.max(np.abs(z)),
}


@pytest.mark.parametrize("norm", list(PENALTIES))
def test_proximal_points_are_minima(norm):
    """No point of a fine search is better; planted: another norm's proximal point is."""
    points = 0.3 * jax.random.normal(KEY, (6, 2, 1, 1))
    weights = [0.0, 0.01, 0.05, 0.1, 0.2, 3.0]
    amounts = jnp.asarray(weights)

    flat, grid = np.asarray(points, np.float64).reshape(6, 2), np.linspace(-1.0, 1.0, 41)

    def objective(z, row):
        return np.sum((z - flat[row]) ** 2) / 2 + weights[row] * PENALTIES[norm](z)

    found = np.asarray(proximal(points, amounts, norm), np.float64).reshape(6, 2)
    other = np.asarray(proximal(points, amounts, "l1" if norm != "l1" else "l2"), np.float64).reshape(6, 2)
    worse = 0
    for row in range(6):
        best = min(objective(np.array([a, b]), row) for a in grid for b in grid)
        assert objective(found[row], row) <= best + 1e-6
        worse += objective(other[row], row) > objective(found[row], row) + 1e-5
    assert worse >= 2
    assert (found[5] == 0).all() and np.allclose(found[0], flat[0], atol=1e-6)


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_a_hundred_steps_of_pdpgd_come_near(norm):
    """Planted: the authors' rates, which are for 500 steps of any norm."""
    model, x, labels = problem()
    best = optimum(model, x, labels, (labels + 1) % 2, CLOSEST[norm])

    def excess(attack):
        x_adv = attack(model, x, labels)
        assert np.asarray(judge(model, x, x_adv, labels).success).all()
        return np.median(sizes(x, x_adv, norm) / best)

    attack = PDPGD(norm=norm, steps=100)
    assert excess(attack) <= {"l0": 1.0, "l1": 1.1, "l2": 1.15, "linf": 1.1}[norm]
    assert excess(attack.replace(learning_rate=0.1, dual_rate=0.1, ratio=0.01)) > 1.15


class Ellipsoid(Struct):
    """Class 0 inside an ellipsoid, class 1 outside: a curved boundary."""

    axes: jax.Array

    def __call__(self, x):
        inside = 1.0 - (x.reshape(x.shape[0], -1) - 0.5) ** 2 @ self.axes
        return jnp.stack([inside, jnp.zeros_like(inside)], axis=1)


def test_superdeepfools_change_is_orthogonal_to_the_boundary():
    """At the closest point change and normal are parallel; planted: DeepFool's are not."""
    model = Ellipsoid(jnp.linspace(8.0, 60.0, 16))
    x = 0.5 + 0.06 * (make_images(rows=6, seed=4) - 0.5)
    labels = jnp.zeros(6, jnp.int32)
    cosines, lengths = [], []
    for attack in (SuperDeepFool(k=1), DeepFool(k=1)):
        x_adv = attack(model, x, labels)
        assert np.asarray(judge(model, x, x_adv, labels).success).all()
        normal = jax.grad(lambda x: -model(x)[:, 0].sum())(x_adv)
        change = x_adv - x
        product = jnp.sum(normal * change, axis=(1, 2, 3))
        cosines.append(np.asarray(product) / sizes(0.0, normal, "l2") / sizes(0.0, change, "l2"))
        lengths.append(sizes(x, x_adv, "l2"))
    assert cosines[0].min() > 0.995 and np.median(cosines[1]) < 0.99
    assert (lengths[0] <= lengths[1]).all() and np.median(lengths[0] / lengths[1]) < 0.95

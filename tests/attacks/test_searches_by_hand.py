"""CW2, EAD, APGD and FAB step by step in NumPy, on small models; and what searches share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax.attacks import APGD, CW2, EAD, FAB
from deepsec_jax.attacks.apgd import checkpoints
from deepsec_jax.attacks.best_so_far import closer, none_yet
from deepsec_jax.attacks.ead import shrink
from deepsec_jax.attacks.parts import at_input
from deepsec_jax.attacks.tanh_space import from_tanh, to_tanh
from deepsec_jax.pytree import Struct

MODEL = make_linear(classes=2, seed=3, scale=2.0)
X = 0.3 + 0.4 * make_images(rows=6, seed=2)
LABELS = jnp.argmax(MODEL(X), axis=-1).astype(jnp.int32)
WEIGHTS, BIAS = np.asarray(MODEL.weights, np.float64), np.asarray(MODEL.bias, np.float64)


def missing(point, label, confidence=0.0):
    """By how much the margin falls short of ``confidence``, and its gradient by the pixels."""
    normal = WEIGHTS[:, label] - WEIGHTS[:, 1 - label]
    return point @ normal + BIAS[label] - BIAS[1 - label] + confidence, normal


def cw2(x, label, *, c, steps, learning_rate, confidence):
    """Carlini and Wagner's loop with Adam, and the closest success of all iterates."""
    w = np.arctanh((2 * x - 1) * 0.999999)
    first, second, best, closest = np.zeros_like(w), np.zeros_like(w), x, np.inf
    for step in range(1, steps + 1):
        point = (np.tanh(w) + 1) / 2
        short, normal = missing(point, label, confidence)
        distance = ((point - x) ** 2).sum()
        if short <= 0 and distance < closest:
            best, closest = point, distance
        gradient = (2 * (point - x) + c * normal * (short > 0)) * (1 - np.tanh(w) ** 2) / 2
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        w = w - learning_rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return best


def ead(x, label, *, c, steps, learning_rate, beta, confidence, rule):
    """Chen et al.'s FISTA, and the closest success under a rule."""
    point, y, best, closest = x, x, x, np.inf
    for step in range(steps):
        short, normal = missing(y, label, confidence)
        gradient = c * normal * (short > 0) + 2 * (y - x)
        moved = y - learning_rate * np.sqrt(1 - step / steps) * gradient - x
        following = np.clip(x + np.sign(moved) * np.maximum(np.abs(moved) - beta, 0), 0, 1)
        y, point = following + step / (step + 3) * (following - point), following
        l1 = np.abs(point - x).sum()
        distance = l1 if rule == "l1" else ((point - x) ** 2).sum() + beta * l1
        if missing(point, label, confidence)[0] <= 0 and distance < closest:
            best, closest = point, distance
    return best


def by_numpy(method, **settings):
    flat = np.asarray(X, np.float64).reshape(len(X), -1)
    rows = [method(x, int(label), **settings) for x, label in zip(flat, LABELS, strict=True)]
    return np.stack(rows).reshape(X.shape)


ONE = {"search_steps": 1, "abort_early": False}


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_cw2_is_adam_in_tanh_space(confidence):
    settings = {"c": 0.5, "steps": 40, "learning_rate": 0.05, "confidence": confidence}
    expected = by_numpy(cw2, **settings)
    x_adv = CW2(**settings, **ONE)(MODEL, X, LABELS)
    np.testing.assert_allclose(x_adv, expected, atol=2e-4)
    assert (np.abs(expected - np.asarray(X)).reshape(6, -1).max(axis=1) > 1e-3).all()
    for planted in ({"learning_rate": 0.04}, {"confidence": confidence + 0.2}, {"c": 0.6}):
        assert not np.allclose(x_adv, by_numpy(cw2, **settings | planted), atol=2e-3)


@pytest.mark.parametrize(("rule", "confidence"), [("en", 0.0), ("l1", 0.5)])
def test_ead_is_fista_with_falling_steps(rule, confidence):
    settings = {
        "c": 0.5,
        "steps": 40,
        "learning_rate": 0.05,
        "beta": 0.005,
        "confidence": confidence,
        "rule": rule,
    }
    expected = by_numpy(ead, **settings)
    x_adv = EAD(**settings, **ONE, settle=0, pruning=0)(MODEL, X, LABELS)
    np.testing.assert_allclose(x_adv, expected, atol=2e-4)
    assert (np.abs(expected - np.asarray(X)).reshape(6, -1).max(axis=1) > 1e-3).all()
    for planted in ({"beta": 0.0025}, {"confidence": confidence + 0.2}, {"learning_rate": 0.04}):
        assert not np.allclose(x_adv, by_numpy(ead, **settings | planted), atol=2e-3)


def test_shrinking_by_hand():
    x = jnp.asarray([0.5, 0.5, 0.5, 0.0, 1.0]).reshape(1, 1, 5, 1)
    z = jnp.asarray([0.8, 0.25, 0.55, -0.3, 1.5]).reshape(1, 1, 5, 1)
    np.testing.assert_allclose(np.ravel(shrink(z, x, 0.1)), [0.7, 0.35, 0.5, 0.0, 1.0], atol=1e-6)


def test_tanh_space_holds_images_to_a_part_in_a_million():
    x = jnp.asarray([0.0, 1e-3, 0.5, 0.999, 1.0]).reshape(1, 1, 5, 1)
    np.testing.assert_allclose(from_tanh(to_tanh(x)), x, atol=2e-6)
    assert np.isfinite(to_tanh(x)).all()


def test_the_closest_success_is_kept_and_the_earlier_of_equals():
    x = jnp.zeros((4, 1, 1, 1))
    best = closer(none_yet(x), x + 1, jnp.asarray([True, True, True, False]), jnp.full(4, 2.0))
    best = closer(best, x + 2, jnp.asarray([True, True, False, False]), jnp.asarray([2.0, 1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(np.ravel(best.x), [1, 2, 1, 0])
    np.testing.assert_array_equal(best.distance, [2, 1, 2, np.inf])


# --- APGD and FAB, on a model whose gap is a bowl: largest at one point, and curved everywhere


class Bowl(Struct):
    """Two classes: z_1 - z_0 = height - sum of curve (x - peak)^2."""

    curves: jax.Array  # [H, W, C]
    peak: jax.Array  # [H, W, C]
    height: float | jax.Array

    def __call__(self, x):
        gap = self.height - jnp.sum(self.curves[None] * (x - self.peak[None]) ** 2, axis=(1, 2, 3))
        return jnp.stack([jnp.zeros_like(gap), gap], axis=1)


CURVES = np.geomspace(0.2, 5.0, 16).reshape(4, 4, 1)


def bowl(point, peak, height):
    """The gap and its gradient."""
    return height - (CURVES * (point - peak) ** 2).sum(), -2 * CURVES * (point - peak)


def bowl_model(peak, height):
    return Bowl(jnp.asarray(CURVES, jnp.float32), jnp.asarray(peak, jnp.float32), height)


def apgd(x, peak, *, eps, steps, first, share, back):
    """Croce and Hein's algorithm 1 from the clean image, in L-inf; ``back``: halve and return to the best."""
    point, before, size, last, rises, best, at_check, halved = (
        x,
        x,
        first * eps,
        -np.inf,
        0,
        -np.inf,
        None,
        True,
    )
    for moves in range(steps + 1):
        value, gradient = bowl(point, peak, -1.0)
        if value > best:
            best, best_point, best_gradient = value, point, gradient
        rises += moves > 0 and value > last
        last, at_check = value, best if at_check is None else at_check
        if moves in checkpoints(steps):
            few = rises <= 0.75 * checkpoints(steps)[moves]
            halves = few or (not halved and best <= at_check)
            if halves and back:
                point, gradient, last, size = best_point, best_gradient, best, size / 2
            rises, at_check, halved = 0, best, halves
        ahead = np.clip(point + size * np.sign(gradient), x - eps, x + eps)
        mixed = ahead if moves == 0 else point + share * (ahead - point) + (1 - share) * (point - before)
        before, point = point, np.clip(mixed, x - eps, x + eps)
    return best_point


def test_apgd_is_the_authors_algorithm():
    x = 0.4 + 0.2 * make_images(4, (4, 4, 1))
    peak = np.asarray(x[0]) + 0.1 * np.random.default_rng(0).uniform(-1, 1, (4, 4, 1))
    labels, settings = jnp.zeros(4, jnp.int32), {"first": 2.0, "share": 0.75, "back": True}
    x_adv = APGD(eps=0.2, steps=30, start=at_input)(bowl_model(peak, -1.0), x, labels)

    def by_numpy(**changes):
        rows = np.asarray(x, np.float64)
        return np.stack([apgd(row, peak, eps=0.2, steps=30, **settings | changes) for row in rows])

    np.testing.assert_allclose(x_adv, by_numpy(), atol=1e-4)
    for planted in ({"first": 1.0}, {"share": 1.0}, {"back": False}):
        assert not np.allclose(x_adv, by_numpy(**planted), atol=2e-3)


def fab(x, peak, *, steps, bias, overshoot, backward):
    """Croce and Hein's algorithm 1 in L2, towards the only other class, away from the edges of the box."""
    point, best, closest = x, x, np.inf
    for _ in range(steps):
        gap, slope = bowl(point, peak, 0.05)
        along = slope / (slope**2).sum()
        here, there = -gap * along, (-gap + (slope * (point - x)).sum()) * along
        near, far = np.linalg.norm(here), np.linalg.norm(there)
        share = min(near / (near + far), bias)
        point = (1 - share) * (point + overshoot * here) + share * (x + overshoot * there)
        if bowl(point, peak, 0.05)[0] > 0:
            if np.linalg.norm(point - x) < closest:
                best, closest = point, np.linalg.norm(point - x)
            point = x + backward * (point - x)
    return best


def test_fab_is_the_authors_algorithm():
    x = 0.4 + 0.2 * make_images(4, (4, 4, 1))
    peak = 0.5 + 0.05 * np.random.default_rng(1).uniform(-1, 1, (4, 4, 1))
    settings = {"steps": 10, "bias": 0.1, "overshoot": 1.05, "backward": 0.9}
    model = bowl_model(peak, 0.05)
    assert (jnp.argmax(model(x), axis=-1) == 0).all()
    x_adv = FAB(norm="l2", **settings)(model, x, jnp.zeros(4, jnp.int32))

    def by_numpy(**changes):
        return np.stack([fab(row, peak, **settings | changes) for row in np.asarray(x, np.float64)])

    np.testing.assert_allclose(x_adv, by_numpy(), atol=1e-4)
    for planted in ({"bias": 0.0}, {"overshoot": 1.0}, {"backward": 1.0}):
        assert not np.allclose(x_adv, by_numpy(**planted), atol=1e-3), planted

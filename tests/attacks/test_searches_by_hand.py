"""CW2 and EAD step by step in NumPy, on a linear model under one constant c; and what they share."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images, make_linear

from deepsec_jax.attacks import CW2, EAD
from deepsec_jax.attacks.closest import closer, none_yet
from deepsec_jax.attacks.ead import shrink
from deepsec_jax.attacks.tanh_space import from_tanh, to_tanh

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
    x_adv = EAD(**settings, **ONE, settle=0, sparing=0)(MODEL, X, LABELS)
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

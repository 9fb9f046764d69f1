"""Projections: inside, idempotent, and nearest (against scipy's bounded minimiser in small dimensions)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepsec_jax.attacks import geometry

SHAPE = (4, 2, 3, 1)


def draw(seed, low=-1.0, high=2.0):
    return jax.random.uniform(jax.random.key(seed), SHAPE, minval=low, maxval=high)


@pytest.mark.parametrize("norm", geometry.NORMS)
@settings(max_examples=50)
@given(seed=st.integers(0, 2**31 - 1), eps=st.floats(0.0, 2.0, width=32))
def test_projection_is_inside_idempotent_and_keeps_inner_points(norm, seed, eps):
    x, anywhere = draw(seed, 0.0, 1.0), draw(seed + 1)
    inside = geometry.project(anywhere, x, np.float32(eps), norm)
    delta = np.asarray(inside - x, np.float64).reshape(4, -1)
    size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    assert (size <= eps + 1e-6).all()
    assert inside.min() >= 0 and inside.max() <= 1
    np.testing.assert_allclose(geometry.project(inside, x, np.float32(eps), norm), inside, atol=1e-6)


def test_linf_projection_is_the_nearest_point():
    x, anywhere, eps = draw(3, 0.0, 1.0), draw(4), 0.2
    expected = np.clip(np.clip(anywhere, x - eps, x + eps), 0, 1)  # a product of intervals: clip is nearest
    np.testing.assert_allclose(geometry.project(anywhere, x, eps, "linf"), expected, atol=1e-6)


def test_l2_projection_lands_on_the_sphere_only_from_outside():
    x = jnp.full(SHAPE, 0.5)
    direction = jnp.zeros(SHAPE).at[:, 0, 0, 0].set(1.0)
    np.testing.assert_allclose(
        geometry.project(x + 0.3 * direction, x, 0.1, "l2"), x + 0.1 * direction, atol=1e-7
    )
    np.testing.assert_allclose(
        geometry.project(x + 0.05 * direction, x, 0.1, "l2"), x + 0.05 * direction, atol=1e-7
    )


def test_steepest_steps_have_unit_length_and_zero_stays_zero():
    direction = draw(5)
    assert set(np.unique(geometry.steepest(direction, "linf"))) <= {-1.0, 0.0, 1.0}
    lengths = np.linalg.norm(np.asarray(geometry.steepest(direction, "l2")).reshape(4, -1), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)
    for norm in geometry.NORMS:
        assert not np.any(geometry.steepest(jnp.zeros(SHAPE), norm))
    tiny = geometry.steepest(direction * 1e-30, "l2")  # no underflow on the way to the norm
    np.testing.assert_allclose(np.linalg.norm(np.asarray(tiny).reshape(4, -1), axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("norm", geometry.NORMS)
def test_random_points_fill_the_ball(norm):
    keys = jax.random.split(jax.random.key(0), 2000)
    x = jnp.full((2000, 2, 1, 1), 0.5)
    delta = np.asarray(geometry.uniform_in_ball(keys, x, 0.4, norm) - x).reshape(2000, 2)
    size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    assert size.max() <= 0.4 + 1e-6
    # Uniform in two dimensions: P(size <= r eps) = r^2 in either norm.
    np.testing.assert_allclose(np.mean(size <= 0.2), 0.25, atol=0.04)
    np.testing.assert_allclose(delta.mean(0), 0.0, atol=0.03)


def test_towards_never_moves_away():
    x = jax.random.uniform(jax.random.key(0), (50, 2, 2, 1)).astype(jnp.bfloat16)
    target = jnp.clip(x.astype(jnp.float32) + 0.0123, min=0.0, max=1.0)
    rounded = geometry.towards(target, x)
    assert rounded.dtype == jnp.bfloat16
    clean, moved = x.astype(jnp.float32), rounded.astype(jnp.float32)
    assert (jnp.abs(moved - clean) <= jnp.abs(target - clean)).all()
    naive = target.astype(jnp.bfloat16).astype(jnp.float32)
    assert (jnp.abs(naive - clean) > jnp.abs(target - clean)).any()  # planted: plain rounding does


def excess(points, x, eps):
    """By how much points lie outside the L2 ball around ``x``, at most, in float64."""
    delta = np.asarray(points, np.float64) - np.asarray(x, np.float64)
    return (np.linalg.norm(delta.reshape(len(delta), -1), axis=1) - np.float64(np.float32(eps))).max()


def test_an_l2_projection_is_in_the_ball_but_for_the_last_digit_of_an_image():
    x = jax.random.uniform(jax.random.key(0), (2000, 10, 10, 1), minval=0.4, maxval=0.6)
    anywhere = x + jax.random.normal(jax.random.key(1), x.shape)
    ulp = 2.0**-23
    for eps in (0.1, 1.0, 2.0):
        assert excess(geometry.project(anywhere, x, eps, "l2"), x, eps) <= ulp
    scale = eps / geometry.l2_norm(anywhere - x)[:, None, None, None]
    assert excess(x + scale * (anywhere - x), x, eps) > ulp  # planted: what rounding alone does


@pytest.mark.parametrize("norm", geometry.NORMS)
def test_random_points_stay_in_the_box(norm):
    x = jax.random.bernoulli(jax.random.key(0), 0.5, (50, 3, 3, 1)).astype(jnp.float32)
    points = geometry.uniform_in_ball(jax.random.split(jax.random.key(1), 50), x, 0.3, norm)
    assert float(points.min()) >= 0 and float(points.max()) <= 1
    assert 0.4 < np.mean(np.asarray(points) == np.asarray(x)) < 0.6  # of what would leave, half

"""Models around models: the expectation over draws, the straight-through gradient, the temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear

from deepsec_jax import attacks
from deepsec_jax.models.wrappers import EOT, Scaled, straight_through
from deepsec_jax.randomness import is_randomised, reseed


def noisy(rows, seed=0, scale=0.2):
    return Noisy(make_linear(), jax.random.split(jax.random.key(seed), rows), scale)


def test_eot_of_a_linear_model_nears_the_model_without_noise():
    x = make_images(rows=6)
    model = noisy(6)
    one, many = (np.abs(EOT(model, n)(x) - model.base(x)).mean() for n in (1, 400))
    assert many < one / 10  # the error of a mean falls as 1 / sqrt(n), here by 20


def test_eot_draws_are_fresh_and_follow_from_the_key():
    x, model = make_images(rows=6), noisy(6)
    assert is_randomised(EOT(model, 3))
    assert np.array_equal(EOT(model, 3)(x), EOT(model, 3)(x))
    other = reseed(EOT(model, 3), jax.random.split(jax.random.key(9), 6))
    assert not np.allclose(other(x), EOT(model, 3)(x))
    # Planted: n times the same draw would be that draw, and not what n draws give.
    assert not np.allclose(EOT(model, 3)(x), model(x), atol=1e-3)


def test_eot_of_a_deterministic_model_is_the_model():
    x, model = make_images(rows=6), make_linear()
    assert np.allclose(EOT(model, 4)(x), model(x), rtol=1e-6)


def test_eots_rows_do_not_see_each_other():
    x, model = make_images(rows=6), noisy(6)
    order = jnp.array([3, 1, 5, 0, 2, 4])
    permuted = EOT(model.replace(keys=model.keys[order]), 5)(x[order])
    assert np.allclose(permuted, EOT(model, 5)(x)[order], rtol=1e-5)


def test_eot_under_attack_in_one_compile(compiles):
    x, labels = make_images(rows=6), jnp.zeros(6, jnp.int32)
    pgd = attacks.PGD(eps=0.2, step_size=0.05, steps=3)
    with compiles() as count:
        for seed in range(2):
            x_adv = pgd(EOT(noisy(6, seed), 5), x, labels, key=jax.random.key(seed))
        assert count("PGD") == 1
    assert float(jnp.abs(x_adv - x).max()) <= 0.2 + 1e-6


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_senseless_numbers_of_draws_are_refused(n):
    with pytest.raises(ValueError, match=r"EOT\.n must be an integer of at least 1"):
        EOT(make_linear(), n)


def one_bit(x):
    return jnp.round(x)


def test_straight_through_is_the_transform_forward_and_the_identity_back():
    x = make_images(rows=3)
    through = straight_through(one_bit)
    assert np.array_equal(jax.jit(lambda t, x: t(x))(through, x), jnp.round(x))
    weights = jax.random.normal(jax.random.key(0), x.shape)
    gradient = jax.grad(lambda x: (weights * through(x)).sum())(x)
    assert np.allclose(gradient, weights)
    plain = jax.grad(lambda x: (weights * one_bit(x)).sum())(x)
    assert not np.any(plain)  # planted: without it there is nothing to follow


def test_straight_through_a_host_function():
    def on_host(x):
        return jax.pure_callback(
            lambda x: np.asarray(np.asarray(x) > 0.5, np.float32),
            jax.ShapeDtypeStruct(x.shape, jnp.float32), x, vmap_method="expand_dims",
        )  # fmt: skip

    x = make_images(rows=2)
    gradient = jax.jit(jax.grad(lambda x: (3.0 * straight_through(on_host)(x)).sum()))(x)
    assert np.allclose(gradient, 3.0)


def test_scaled_is_traced():
    x, model = make_images(rows=2), make_linear()
    traces = []

    @jax.jit
    def run(model, x):
        traces.append(1)
        return model(x)

    assert np.allclose(run(Scaled(model, 0.02), x) * 50, model(x), rtol=1e-5)
    run(Scaled(model, 0.5), x)
    assert len(traces) == 1

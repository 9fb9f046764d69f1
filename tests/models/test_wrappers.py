"""Models around models: the expectation over draws, the straight-through gradient, the temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Noisy, make_images, make_linear
from flax import nnx

from deepsec_jax import attacks
from deepsec_jax.models import SmallCNN
from deepsec_jax.models.wrappers import EOT, Normalised, Scaled, straight_through
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


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_normalised_model_is_the_network_on_normalised_images():
    x = make_images(shape=(4, 4, 3), rows=5)
    network = make_linear((4, 4, 3))
    model = Normalised(network, *IMAGENET)
    mean, std = (np.array(values, np.float64) for values in IMAGENET)
    by_hand = network(jnp.asarray((np.asarray(x, np.float64) - mean) / std, jnp.float32))
    np.testing.assert_allclose(model(x), by_hand, rtol=1e-5, atol=1e-5)
    shifted = Normalised(network)(x)  # for a network of images in [-1, 1]
    np.testing.assert_allclose(shifted, network(2 * x - 1), rtol=1e-5, atol=1e-5)


def test_attacks_on_a_normalised_model_stay_in_the_box_of_the_images():
    x = make_images(shape=(4, 4, 3), rows=5)
    model = Normalised(make_linear((4, 4, 3)), *IMAGENET)
    labels = jnp.argmax(model(x), axis=-1)
    eps = 8 / 255
    x_adv = attacks.FGSM(eps=eps)(model, x, labels)
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and jnp.abs(x_adv - x).max() <= eps + 1e-6
    # Planted: on normalised images the same eps is another radius, and the box another box.
    outside = (np.asarray(x) - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    assert outside.min() < 0 or outside.max() > 1


def test_other_means_hit_the_same_program():
    x, network = make_images(shape=(4, 4, 3), rows=5), make_linear((4, 4, 3))
    one, other = (Normalised(network, jnp.full(3, mean), jnp.full(3, 0.5)) for mean in (0.4, 0.5))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert not np.allclose(one(x), other(x))


def test_activations_go_through_where_there_are_any():
    net = SmallCNN((8, 8, 1), 10, rngs=nnx.Rngs(0))
    net.eval()
    x = make_images(shape=(8, 8, 1), rows=3)
    for ours, theirs in zip(Normalised(net).activations(x), net.activations(2 * x - 1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not hasattr(Normalised(make_linear()), "activations")


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123.675, 116.28, 103.53), 0.5, r"Normalised\.mean .* divide values for 0 \.\. 255 by 255"),
        (0.5, (58.4, 57.1, 57.4), r"Normalised\.std .* divide"),
        (0.5, 0.0, r"Normalised\.std must be a number or \[C\] from 1e-06"),
        (-0.1, 0.5, r"Normalised\.mean"),
        (float("nan"), 0.5, r"Normalised\.mean"),
        (np.zeros((2, 2)), 0.5, r"Normalised\.mean"),
    ],
)
def test_a_normalisation_of_other_units_is_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalised(make_linear(), mean, std)

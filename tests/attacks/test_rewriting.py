"""Max-pooling as comparisons: equal bits on ties, overlaps and NaN; bodies of shard_map are unchanged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_images
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from attacks.test_gradient import networks, objective
from deepsec_jax.attacks import PGD
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.rewriting import rewritten

NHWC = (1, 2, 2, 1)
POOLS = {  # image, window, strides, padding
    "2 x 2": ((2, 6, 4, 3), NHWC, NHWC, "VALID"),
    "a rest": ((2, 7, 5, 3), NHWC, NHWC, "VALID"),
    "overlap": ((2, 7, 8, 2), (1, 3, 3, 1), NHWC, "VALID"),
    "overlap, padding": ((2, 8, 7, 2), (1, 3, 3, 1), NHWC, "SAME"),
    "stride 1": ((1, 5, 4, 2), (1, 3, 2, 1), (1, 1, 1, 1), "SAME"),
    "much padding": ((1, 5, 5, 2), (1, 3, 3, 1), NHWC, ((0, 0), (2, 2), (1, 2), (0, 0))),
    "gaps": ((2, 8, 9, 2), NHWC, (1, 3, 4, 1), "VALID"),
    "channels first": ((2, 3, 6, 9), (1, 1, 3, 3), (1, 1, 3, 3), "VALID"),
    "one window": ((2, 4, 3, 2), (1, 4, 3, 1), (1, 1, 1, 1), "VALID"),
    "one axis": ((3, 9), (1, 4), (1, 2), "VALID"),
}
BOTH = {"reduce_window_max", "select_and_scatter_add"}


def pooled(window, strides, padding="VALID"):
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def both_passes(pool, x):
    """Return the pooled images and the gradient of a weighted sum of them."""
    values, pull = jax.vjp(pool, x)
    weights = jax.random.normal(jax.random.key(0), values.shape, x.dtype)
    return values, *pull(weights)


def primitives(function, x):
    return {equation.primitive.name for equation in jax.make_jaxpr(function)(x).jaxpr.eqns}


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in POOLS), ("overlap", "bfloat16")])
def test_max_pooling_is_equal_bit_for_bit(name, dtype):
    shape, *settings = POOLS[name]
    x = np.random.default_rng(0).integers(-1, 2, shape).astype(np.float32)  # ties
    x[..., 0][np.random.default_rng(1).random(shape[:-1]) < 0.2] = np.nan
    x = jnp.asarray(x, dtype)
    passes = functools.partial(both_passes, pooled(*settings))
    assert not primitives(rewritten(passes), x) & BOTH
    for found, expected in zip(jax.jit(rewritten(passes))(x), jax.jit(passes)(x), strict=True):
        np.testing.assert_array_equal(found.astype(jnp.float32), expected.astype(jnp.float32))
        assert found.dtype == expected.dtype == x.dtype


def test_large_windows_are_unchanged():
    passes = functools.partial(both_passes, pooled((1, 5, 5, 1), (1, 5, 5, 1)))
    assert primitives(rewritten(passes), jnp.ones((1, 10, 10, 1))) >= BOTH


def test_the_first_of_equal_entries_gets_the_gradient():
    """XLA's rule; planted: the last one would be another image."""
    x = jnp.ones((1, 4, 4, 1))
    gradient = both_passes(pooled((1, 2, 2, 1), (1, 2, 2, 1)), x)[1]
    assert gradient[0, ::2, ::2].all() and not gradient[0, 1::2].any() and not gradient[0, :, 1::2].any()


def summed_over_devices(weights, x):
    """A model with a collective inside: rows over the mesh's only axis, logits centred by a global mean."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))

    def local(weights, x):
        logits = jnp.tanh(x.mean(axis=(1, 2))) @ weights
        return logits - 1e-3 * lax.psum(lax.stop_gradient(logits.sum()), "rows")

    rows = PartitionSpec("rows")
    return jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows)(weights, x)


def test_a_model_with_collectives_inside_is_attacked():
    model = jax.tree_util.Partial(summed_over_devices, jax.random.normal(jax.random.key(0), (1, 3)))
    x = make_images(rows=4)
    labels = jnp.argmax(model(x), axis=-1)
    _, _, gradient = jax.jit(lambda x: value_and_gradient(objective(model), x))(x)
    expected = jax.jit(jax.grad(lambda y: objective(model)(y)[0].sum()))(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    x_adv = PGD(eps=0.1, steps=2)(model, x, labels, key=jax.random.key(0))
    assert np.any(x_adv != x)


def test_the_function_is_traced_once():
    model, x = networks()["looped"], make_images(shape=(8, 8, 1))
    calls = []

    def counted(y):
        calls.append(1)
        return objective(model)(y)[0].sum()

    jax.make_jaxpr(rewritten(jax.grad(counted)))(x)
    assert len(calls) == 1

"""What all random transforms keep: rows do not see each other, keys decide all, gradients are finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photographs

from deepsec_jax.transforms import crop_resize, kept_pixels, point_in_cube, resize_pad, tv_minimised

ROWS = 6


def from_half(x, keys):
    return tv_minimised(x, kept_pixels(keys, x.shape[1:3], 0.5), sweeps=5)


RANDOM = {
    "crop": lambda x, keys: crop_resize(x, keys, 13),
    "resize": lambda x, keys: resize_pad(x, keys, 16, 19, 0.5),
    "tv": from_half,
    "cube": lambda x, keys: point_in_cube(x, keys, 0.1),
}
x = jnp.tile(jnp.asarray(photographs(16, 16)), (2, 1, 1, 1))


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), ROWS)


@pytest.mark.parametrize("name", RANDOM)
def test_rows_and_keys_permuted_together(name):
    transform, order = jax.jit(RANDOM[name]), jnp.array([3, 1, 5, 0, 2, 4])
    whole = transform(x, keys())
    assert np.array_equal(transform(x[order], keys()[order]), whole[order])
    assert not np.array_equal(transform(x[order], keys()), whole[order])  # planted: keys left behind
    assert np.array_equal(whole, transform(x, keys())) and not np.array_equal(whole, transform(x, keys(1)))
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1 and whole.dtype == x.dtype
    # The same picture in another row, under another key, is transformed otherwise.
    assert not np.array_equal(whole[:3], whole[3:])


@pytest.mark.parametrize("name", RANDOM)
def test_gradients_are_finite_and_not_zero(name):
    weights = np.random.default_rng(9).normal(size=(ROWS, 1, 1, 3)).astype(np.float32)
    gradient = np.asarray(jax.jit(jax.grad(lambda x: (weights * RANDOM[name](x, keys())).sum()))(x))
    assert np.isfinite(gradient).all() and (np.abs(gradient).sum((1, 2, 3)) > 0).all()

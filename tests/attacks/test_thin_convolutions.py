"""Convolutions from and to few channels: equal bits from them, equal up to rounding to them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deepsec_jax.attacks import thin_convolutions
from deepsec_jax.attacks.rewriting import rewritten
from deepsec_jax.attacks.thin_convolutions import sum_of_products

FROM_FEW = {  # images, kernel, strides, padding
    "first layer": ((3, 9, 8, 1), (3, 3, 1, 16), (1, 1), "VALID"),
    "colours": ((2, 8, 8, 3), (3, 3, 3, 16), (1, 1), "SAME"),
    "strides": ((2, 9, 8, 1), (5, 5, 1, 16), (2, 3), "SAME"),
    "cropped": ((2, 9, 8, 1), (2, 3, 1, 8), (1, 1), ((-1, 2), (0, -2))),
    "one axis": ((4, 12, 2), (3, 2, 8), (2,), "SAME"),
}
TO_FEW = {
    "gradient": ((3, 7, 6, 16), (3, 3, 16, 1), ((2, 2), (2, 2))),
    "colours": ((2, 8, 8, 16), (3, 3, 16, 3), "SAME"),
    "cropped": ((2, 9, 8, 8), (2, 3, 8, 2), ((-1, 2), (0, -1))),
    "one axis": ((4, 12, 8), (3, 8, 2), ((0, 2),)),
}
OTHERS = {
    "many entries": ((1, 8, 8, 8), (3, 3, 8, 16), {}),
    "few filters": ((1, 8, 8, 1), (3, 3, 1, 2), {}),
    "groups": ((1, 8, 8, 2), (3, 3, 1, 16), {"feature_group_count": 2}),
    "dilation": ((1, 8, 8, 1), (3, 3, 1, 16), {"rhs_dilation": (2, 2)}),
    "few bits": ((1, 8, 8, 1), (3, 3, 1, 16), {"dtype": "bfloat16"}),
}


def arrays(images, kernel, dtype="float32"):
    """Images of a mean that is not 0, and weights of either sign."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(keys[0], images, dtype)
    return x, jax.random.normal(keys[1], kernel, dtype)


def convolution(strides, padding="SAME", **others):
    def call(x, kernel):
        letters = "HW"[: x.ndim - 2]
        orders = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=orders, **others)

    return call


def is_rewritten(call, *args):
    return "conv_general_dilated" not in str(jax.make_jaxpr(rewritten(call))(*args))


def from_few(name):
    """The convolution as it is, and rewritten."""
    *shapes, strides, padding = FROM_FEW[name]
    args, call = arrays(*shapes), convolution(strides, padding)
    assert is_rewritten(call, *args)
    return jax.jit(call)(*args), jax.jit(rewritten(call))(*args)


@pytest.mark.parametrize("name", FROM_FEW)
def test_from_few_channels(name):
    expected, found = from_few(name)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(np.flip(found, 1), expected)  # planted


def equal_bits():
    """As users compile; planted: with places in reverse the bits are others."""
    for name in FROM_FEW:
        np.testing.assert_array_equal(*from_few(name))
    (x, kernel), call = arrays((3, 9, 8, 1), (3, 3, 1, 16)), convolution((1, 1))
    backwards = jax.jit(rewritten(call))(x[:, ::-1, ::-1], kernel[::-1, ::-1])[:, ::-1, ::-1]
    assert np.any(backwards != jax.jit(call)(x, kernel))
    print("equal")


@pytest.mark.long
def test_from_few_channels_is_equal_bit_for_bit():
    """In a process of its own: the suite compiles without optimisations, and then rounds more often."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    program = "from attacks.test_thin_convolutions import equal_bits; equal_bits()"
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout == "equal\n"


@pytest.mark.parametrize("name", TO_FEW)
def test_to_few_channels_differs_by_rounding(name):
    *shapes, padding = TO_FEW[name]
    args, call = arrays(*shapes), convolution((1,) * (len(shapes[0]) - 2), padding)
    assert is_rewritten(call, *args)
    expected = jax.jit(call)(*args)
    difference = jnp.abs(jax.jit(rewritten(call))(*args) - expected).max()
    assert difference <= 1e-6 * jnp.abs(expected).max()
    shifted = {"padding": [(0, 0)] * (args[0].ndim - 2), "precision": None}  # planted
    assert sum_of_products(*args, shifted).shape != expected.shape


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_are_unchanged(name):
    *shapes, others = OTHERS[name]
    settings = {key: value for key, value in others.items() if key != "dtype"}
    x, kernel = arrays(*shapes, others.get("dtype", "float32"))
    assert not is_rewritten(convolution((1, 1), **settings), x, kernel)


def test_stacked_kernels():
    """One network each: every result is that of its own kernel."""
    (x, kernel), call = arrays((2, 8, 8, 1), (3, 3, 1, 16)), convolution((1, 1))
    kernels = jnp.stack([kernel, -2 * kernel])
    both = jax.jit(jax.vmap(rewritten(call), in_axes=(None, 0)))(x, kernels)
    for found, each in zip(both, kernels, strict=True):
        np.testing.assert_allclose(found, call(x, each), rtol=1e-6, atol=1e-6)


def test_the_sum_is_computed_once(monkeypatch):
    """For all its uses; planted: without a border in the program XLA computes it for each."""
    x, kernel = arrays((2, 8, 8, 1), (3, 3, 1, 16))

    def twice(x, kernel):
        y = jnp.maximum(convolution((1, 1))(x, kernel), 0.0)
        return y, jnp.flip(y, 1).sum(axis=2)

    def multiplications(function):
        return jax.jit(function).lower(x, kernel).compile().as_text().count(" multiply(")

    stored = multiplications(rewritten(twice))
    monkeypatch.setattr(thin_convolutions, "_stored", lambda array, kernel: array)
    assert multiplications(rewritten(twice)) > stored

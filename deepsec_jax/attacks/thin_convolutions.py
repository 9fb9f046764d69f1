"""Convolutions of images with few channels, or to images with few, for a CPU.

XLA:CPU copies the window of every position and multiplies the copies with the kernel.  A network's first
layer has short windows, and its gradient has few results: then copying takes most of the time.  On one core
32 filters of 3 x 3 on images of 28 x 28 x 1 took 25 us an image, and 4 as the sum that is written here.  The
gradient took 40 us, and 6.

:func:`sum_of_places` is equal to XLA's convolution bit for bit.  This matters: a change of the last bit of an
activation can switch a ReLU, and then the gradient is another one.  :func:`sum_of_products` adds in another
order, and differs by less than 1e-6 of the largest entry.  It computes gradients with respect to images,
which no ReLU follows.

A *place* is the position of an entry in the kernel.
"""

import itertools
import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

MOST = 32
"""Most terms of a sum: every one is an operation of the program."""

SPREAD = 2
"""How many times the channels of the images, or of the result, the entries of the kernel may be."""


def from_few_channels(images: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> bool:
    """Tell whether :func:`sum_of_places` should compute this convolution.

    Args:
        images: [B, ..., in].
        kernel: [..., in, out].
        params: of ``conv_general_dilated``.
    """
    terms, filters = math.prod(kernel.shape[:-1]), kernel.shape[-1]
    return _is_plain(images, kernel, params) and terms <= min(MOST, SPREAD * filters)


def sum_of_places(images: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Return the convolution as a sum over places and channels, of an entry times the filters' weights."""
    strides = params["window_strides"]
    edges = [(0, 0, 0), *((*sides, 0) for sides in params["padding"]), (0, 0, 0)]
    images = lax.pad(images, jnp.zeros((), images.dtype), edges)
    sizes = kernel.shape[:-2]
    last = [
        (entries - size) // stride * stride + 1
        for entries, size, stride in zip(images.shape[1:-1], sizes, strides, strict=True)
    ]

    def term(place: tuple[int, ...], channel: int) -> jax.Array:
        start = (0, *place, channel)
        end = (len(images), *map(add, place, last), channel + 1)
        entries = lax.slice(images, start, end, (1, *strides, 1))
        weights = kernel[(*place, channel)].reshape((1,) * (images.ndim - 1) + (-1,))
        return entries * weights

    terms = itertools.starmap(term, itertools.product(_places(sizes), range(images.shape[-1])))
    # The last term first: the compiler then rounds as XLA's convolution does.
    return _stored(reduce(lambda total, last: last + total, terms), kernel)


def _stored(array: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the array as it is; every use of it then reads it from memory.

    XLA would compute the sum again in each: in ResNet-20 that took more time than the convolution.  A branch
    is a border to it, if it depends on a number of the program's input.  It removes ``optimization_barrier``
    on a CPU too early, which here keeps jax from removing the branch.
    """
    positive = lax.slice(kernel.reshape(-1), (0,), (1,)).reshape(()) > 0
    same: jax.Array = lax.cond(positive, lambda: array, lambda: lax.optimization_barrier(array))
    return same


def to_few_channels(images: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> bool:
    """Tell whether :func:`sum_of_products` should compute this convolution; arguments as above."""
    products = math.prod(kernel.shape[:-2]) * kernel.shape[-1]
    return (
        _is_plain(images, kernel, params)
        and set(params["window_strides"]) <= {1}
        and products <= min(MOST, SPREAD * kernel.shape[-2])
    )


def sum_of_products(images: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Return the convolution as one product of matrices, and a sum of its parts, shifted by their place."""
    *sizes, inputs, outputs = kernel.shape
    matrix = jnp.moveaxis(kernel, -2, 0).reshape(inputs, -1)
    rows = images.reshape(-1, inputs)
    products = lax.dot_general(rows, matrix, (((1,), (0,)), ((), ())), precision=params["precision"])
    products = products.reshape(*images.shape[:-1], *sizes, outputs)
    nothing = jnp.zeros((), products.dtype)

    def shifted(place: tuple[int, ...]) -> jax.Array:
        edges = [
            (before - at, after - size + 1 + at, 0)
            for at, size, (before, after) in zip(place, sizes, params["padding"], strict=True)
        ]
        part = products[(slice(None),) * (images.ndim - 1) + place]
        return lax.pad(part, nothing, [(0, 0, 0), *edges, (0, 0, 0)])

    return reduce(add, map(shifted, _places(sizes)))


def _is_plain(images: jax.Array, kernel: jax.Array, params: dict[str, Any]) -> bool:
    """Tell whether a convolution has neither groups nor dilation nor numbers of few bits."""
    dtypes = {images.dtype, kernel.dtype, jnp.dtype(params["preferred_element_type"] or images.dtype)}
    return (
        params["feature_group_count"] == params["batch_group_count"] == 1
        and {*params["lhs_dilation"], *params["rhs_dilation"]} <= {1}
        and len(dtypes) == 1
        and dtypes <= {jnp.dtype("float32"), jnp.dtype("float64")}
        and 0 not in (*images.shape, *kernel.shape)
    )


def _places(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, sizes)))

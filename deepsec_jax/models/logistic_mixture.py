"""Mixtures of discretised logistics: a PixelCNN's distribution of the next pixel.

A logistic in [-1, 1] is divided into bins of width 2 / (levels - 1) around the levels.  The outer two bins
extend to infinity, so the levels' probabilities sum to one.  All channels of a pixel share the component, and
the mean of a channel depends linearly on the previous channels (Salimans et al., "PixelCNN++: Improving the
PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications", ICLR 2017, arXiv:1701.05517).
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images

LEAST_LOG_SCALE = -7.0


class Mixture(NamedTuple):
    """The distribution of pixels of any leading shape [...].

    Attributes:
        log_weights: normalised, [..., K].
        means: of each channel, [..., C, K].
        log_scales: at least -7, [..., C, K].
        slopes: coefficient of channel d < c in the mean of channel c, in (-1, 1), [..., C, C, K]; else 0.
    """

    log_weights: jax.Array
    means: jax.Array
    log_scales: jax.Array
    slopes: jax.Array


def parameters(channels: int, mixtures: int) -> int:
    """Return the number of parameters of a pixel's distribution: 10 K for three channels, 3 K for one."""
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def mixture(numbers: jax.Array, channels: int) -> Mixture:
    """Return the distribution with a network's outputs as parameters.

    Args:
        numbers: [..., parameters(C, K)]: K weights, C K means, C K log scales, K slopes per pair of channels.
        channels: C.
    """
    mixtures = numbers.shape[-1] // parameters(channels, 1)
    split = [mixtures, mixtures * (1 + channels), mixtures * (1 + 2 * channels)]
    weights, means, log_scales, slopes = jnp.split(numbers, split, axis=-1)
    shape = (*numbers.shape[:-1], channels, mixtures)
    pairs = jnp.tanh(slopes).reshape(*numbers.shape[:-1], channels * (channels - 1) // 2, mixtures)
    table = jnp.zeros((*numbers.shape[:-1], channels, channels, mixtures), numbers.dtype)
    later, earlier = jnp.tril_indices(channels, -1)
    return Mixture(
        jax.nn.log_softmax(weights, axis=-1),
        means.reshape(shape),
        jnp.maximum(log_scales.reshape(shape), LEAST_LOG_SCALE),
        table.at[..., later, earlier, :].set(pairs),
    )


def log_likelihood(distribution: Mixture, x: jax.Array, levels: int) -> jax.Array:
    """Return the log-probability of whole pixels, in nats, [...].

    Args:
        distribution: of each pixel.
        x: observed values in [-1, 1], each on one of the levels, [..., C].
        levels: number of levels of a channel.
    """
    means = distribution.means + jnp.einsum("...cdk,...d->...ck", distribution.slopes, x)
    bins = log_of_bins(x[..., None], means, distribution.log_scales, levels)
    return jax.nn.logsumexp(distribution.log_weights + bins.sum(axis=-2), axis=-1)


def log_of_bins(x: jax.Array, means: jax.Array, log_scales: jax.Array, levels: int) -> jax.Array:
    """Return log-probabilities of levels under single logistics; arrays of one rank, broadcast.

    Args:
        x: levels in [-1, 1].
        means: of the logistics.
        log_scales: of the logistics.
        levels: number of levels.
    """
    scale, half = jnp.exp(-log_scales), 1.0 / (levels - 1)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): its logarithm is exact everywhere.
    up_to = jax.nn.log_sigmoid(scale * (x + half - means))
    from_there = jax.nn.log_sigmoid(scale * (means - x + half))
    width = jnp.log(-jnp.expm1(-2.0 * half * scale))
    lowest, highest = x <= -1.0 + half, x >= 1.0 - half
    return (
        jnp.where(highest, 0.0, up_to)
        + jnp.where(lowest, 0.0, from_there)
        + jnp.where(lowest | highest, 0.0, width)
    )


def most_likely(distribution: Mixture, lowest: jax.Array, highest: jax.Array, levels: int) -> jax.Array:
    """Return the most likely level of each channel within bounds, int32 [..., C].

    A channel's probabilities are conditional on the previously chosen channels, which determine its mean and
    the weights of the components.

    Args:
        distribution: of each pixel.
        lowest: least level allowed, int32 [..., C].
        highest: largest level allowed.
        levels: number of levels of a channel.
    """
    mixtures = range(distribution.means.shape[-1])
    every = jnp.arange(levels, dtype=jnp.int32).reshape((1,) * (lowest.ndim - 1) + (levels,))
    places = unit_value(every, levels, distribution.means.dtype)
    log_weights, chosen = distribution.log_weights, list[jax.Array]()
    for channel in range(distribution.means.shape[-2]):
        means = distribution.means[..., channel, :]
        for before, level in enumerate(chosen):
            there = unit_value(level, levels, means.dtype)[..., None]
            means = means + distribution.slopes[..., channel, before, :] * there
        log_scales = distribution.log_scales[..., channel, :]
        joint = [  # one component at a time: a reduction along the axis would be a scalar loop
            log_weights[..., k, None]
            + log_of_bins(places, means[..., k, None], log_scales[..., k, None], levels)
            for k in mixtures
        ]
        most = reduce(jnp.maximum, joint)
        total = most + jnp.log(sum(jnp.exp(part - most) for part in joint))
        allowed = (every >= lowest[..., channel, None]) & (every <= highest[..., channel, None])
        total = jnp.where(allowed, total, -jnp.inf)
        # The first of the largest. XLA:CPU would fuse all of the above into an argmax, scalar by scalar.
        largest = jnp.max(total, axis=-1, keepdims=True)
        best = jnp.min(jnp.where(total == largest, every, levels - 1), axis=-1, keepdims=True)
        log_weights = jnp.concatenate([jnp.take_along_axis(part, best, axis=-1) for part in joint], axis=-1)
        chosen.append(best[..., 0])
    return jnp.stack(chosen, axis=-1).astype(jnp.int32)


def nearest_level(x: Images, levels: int) -> jax.Array:
    """Return the level next to each value in [0, 1], int32."""
    return jnp.clip(jnp.round(x * (levels - 1)), min=0, max=levels - 1).astype(jnp.int32)


def unit_value(level: jax.Array, levels: int, dtype: jnp.dtype) -> jax.Array:
    """Return a level's value in [-1, 1]."""
    return level.astype(dtype) * (2.0 / (levels - 1)) - 1.0

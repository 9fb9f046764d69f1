"""PixelCNN++: the probability of an image, each pixel conditional on all pixels above and to its left.

Two streams of gated residual blocks: one depends on the rows above, the other also on the pixels to the left
in the same row.  Convolutions are shifted, not masked.  ``pixelcnn_scan.py`` evaluates the same network pixel
by pixel, at the total cost of one forward pass.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deepsec_jax.models.logistic_mixture import (
    log_likelihood,
    mixture,
    nearest_level,
    parameters,
    unit_value,
)
from deepsec_jax.protocols import Images

Layer = Callable[[jax.Array], jax.Array]

_init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
_init_small = nnx.initializers.variance_scaling(0.01, "fan_in", "normal")  # a block starts near the identity


def concat_elu(x: jax.Array) -> jax.Array:
    """Return elu of x and of -x, concatenated in the last axis."""
    return nnx.elu(jnp.concatenate([x, -x], axis=-1))


def down(x: jax.Array) -> jax.Array:
    """Shift images down by one row, so that a layer depends only on the rows above."""
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def right(x: jax.Array) -> jax.Array:
    """Shift images right by one column, so that a layer depends only on the columns to the left."""
    return jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]


class ShiftedConv(nnx.Module):
    """A convolution that does not depend on the rows below, or on pixels to the right in the same row.

    ``size = (rows, columns)``: the rows up to the current one; the columns on both sides (``centred``), or up
    to the current one.
    """

    def __init__(
        self, inputs: int, filters: int, size: tuple[int, int], *, centred: bool = False,
        init: Any = _init, rngs: nnx.Rngs,
    ):  # fmt: skip
        left = size[1] // 2 if centred else size[1] - 1
        self.margin = (left, size[1] - 1 - left)
        self.conv = nnx.Conv(inputs, filters, size, padding="VALID", kernel_init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the feature map, as large as ``x`` [B, H, W, inputs]."""
        rows = self.conv.kernel.shape[0]
        return self.conv(jnp.pad(x, ((0, 0), (rows - 1, 0), self.margin, (0, 0))))

    def row(self, x: jax.Array, which: int) -> jax.Array:
        """Return the contribution of one input row [B, W, inputs] through row ``which`` of the kernel."""
        width = x.shape[1]
        padded = jnp.pad(x, ((0, 0), self.margin, (0, 0)))
        seen = [padded[:, column : column + width] for column in range(self.conv.kernel.shape[1])]
        return jnp.concatenate(seen, axis=-1) @ self.matrix(which)

    def matrix(self, which: int) -> jax.Array:
        """Return a row of the kernel as a matrix [columns x inputs, filters]."""
        kernel = self.conv.kernel[which]
        return kernel.reshape(kernel.shape[0] * kernel.shape[1], kernel.shape[2])

    @property
    def bias(self) -> jax.Array:
        """The bias [1, 1, filters] of a row."""
        bias = self.conv.bias
        assert bias is not None  # an nnx.Conv has one by default
        return bias[None, None]


class GatedBlock(nnx.Module):
    """x + a sigmoid(b), where a and b come from two convolutions of x and of other layers' outputs."""

    def __init__(
        self, filters: int, size: tuple[int, int], *, centred: bool = False, extra: int, dropout: float,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.first = ShiftedConv(2 * filters, filters, size, centred=centred, rngs=rngs)
        self.extras = nnx.List(
            nnx.Linear(2 * filters, filters, use_bias=False, kernel_init=_init, rngs=rngs)
            for _ in range(extra)
        )
        self.dropout = nnx.Dropout(dropout)
        self.second = ShiftedConv(
            2 * filters, 2 * filters, size, centred=centred, init=_init_small, rngs=rngs
        )

    def __call__(self, x: jax.Array, *others: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the feature map; ``others`` are the other layers' feature maps."""
        added = self.added(others)
        return self.apply(x, added, self.first, lambda g: self.second(self.dropout(g, rngs=rngs)))[0]

    def added(self, others: Sequence[jax.Array]) -> jax.Array | float:
        """Return the contribution of the other layers' feature maps to the first convolution."""
        return sum((layer(concat_elu(other)) for layer, other in zip(self.extras, others, strict=True)), 0.0)

    def apply(
        self, x: jax.Array, added: jax.Array | float, first: Layer, second: Layer
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the block's output and the inputs of its two convolutions, which the caller passes."""
        seen_first = concat_elu(x)
        seen_second = concat_elu(first(seen_first) + added)
        a, b = jnp.split(second(seen_second), 2, axis=-1)
        return x + a * nnx.sigmoid(b), (seen_first, seen_second)


class PixelCNN(nnx.Module):
    """PixelCNN++ without its two changes of resolution.

    Each stream has ``blocks`` gated blocks, then as many again, which also take the outputs of the first half
    in reverse order.  The authors halve the resolution twice.  Here every layer has the resolution of the
    image, so that a new pixel changes only one column of each layer.

    Args:
        channels: channels of an image.
        filters: width of every layer.
        blocks: gated blocks in each half of each stream.
        mixtures: components of a pixel's distribution.
        levels: levels of a channel; 256 for 8-bit images.
        dropout: rate between the convolutions of a block; ``rngs`` is needed in training only, for this.
        rngs: draws the initial weights.

    References:
        Salimans et al., "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and
        Other Modifications", ICLR 2017, arXiv:1701.05517.
    """

    def __init__(
        self, channels: int, *, filters: int = 160, blocks: int = 5, mixtures: int = 10, levels: int = 256,
        dropout: float = 0.0, rngs: nnx.Rngs,
    ):  # fmt: skip
        for name, value, least in (
            ("channels", channels, 1), ("filters", filters, 1), ("blocks", blocks, 0),
            ("mixtures", mixtures, 1), ("levels", levels, 2),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"PixelCNN.{name} must be an integer of at least {least}, got {value!r}")
        self.channels, self.levels = channels, levels
        seen = channels + 1  # a channel of ones distinguishes the image from the padding
        self.above = ShiftedConv(seen, filters, (2, 3), centred=True, rngs=rngs)
        self.row_above = ShiftedConv(seen, filters, (1, 3), centred=True, rngs=rngs)
        self.left = ShiftedConv(seen, filters, (2, 1), rngs=rngs)

        def gated(count: int, size: tuple[int, int], centred: bool, extra: int) -> nnx.List[GatedBlock]:
            return nnx.List(
                GatedBlock(filters, size, centred=centred, extra=extra, dropout=dropout, rngs=rngs)
                for _ in range(count)
            )

        self.above_first, self.above_second = gated(blocks, (2, 3), True, 0), gated(blocks, (2, 3), True, 1)
        self.left_first, self.left_second = gated(blocks, (2, 2), False, 1), gated(blocks, (2, 2), False, 2)
        self.out = nnx.Linear(
            filters, parameters(channels, mixtures), kernel_init=_init, bias_init=_spread(channels, mixtures),
            rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the parameters of every pixel's distribution, [B, H, W, parameters(channels, mixtures)].

        Args:
            x: images [B, H, W, channels] in [0, 1]; values are rounded to the nearest level.
            rngs: its stream ``dropout`` is used for dropout.
        """
        seen = self.with_ones(unit_value(nearest_level(x, self.levels), self.levels, x.dtype))
        u, v = self.above(down(seen)), self.row_above(down(seen)) + self.left(right(seen))
        us, vs = [u], [v]
        for block, both in zip(self.above_first, self.left_first, strict=True):
            us.append(block(us[-1], rngs=rngs))
            vs.append(both(vs[-1], us[-1], rngs=rngs))
        u, v = us.pop(), vs.pop()
        for block, both in zip(self.above_second, self.left_second, strict=True):
            u = block(u, us.pop(), rngs=rngs)
            v = both(v, u, vs.pop(), rngs=rngs)
        return self.out(nnx.elu(v))

    def with_ones(self, x: jax.Array) -> jax.Array:
        """Return pixels with an additional last channel of ones."""
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


def log_likelihoods(model: PixelCNN, x: Images, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """Return the log-probability of each image in nats, [B]; arguments as of the model's call."""
    observed = unit_value(nearest_level(x, model.levels), model.levels, x.dtype)
    pixels = log_likelihood(mixture(model(x, rngs=rngs), model.channels), observed, model.levels)
    return pixels.sum(axis=(1, 2))


def bits_per_dim(model: PixelCNN, images: Images, *, rngs: nnx.Rngs | None = None) -> jax.Array:
    """Return the bits per value of each image, the mean over its pixels and channels, [B]."""
    values = math.prod(images.shape[1:])
    return -log_likelihoods(model, images, rngs=rngs) / (values * math.log(2.0))


def _spread(channels: int, mixtures: int) -> Callable[..., jax.Array]:
    """Return initial biases that spread the components' means over [-1, 1], with smaller scales."""

    def bias(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        del key
        begin = np.zeros(shape)
        means, scales = np.split(begin[mixtures : mixtures * (1 + 2 * channels)], 2)
        means[:] = np.tile(np.linspace(-1.0, 1.0, mixtures + 2)[1:-1], channels)
        scales[:] = -np.log(mixtures)
        return jnp.asarray(begin, dtype)

    return bias

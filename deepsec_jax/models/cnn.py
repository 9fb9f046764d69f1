"""Plain convolutional networks: the paper's MNIST models, and a small one for digits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deepsec_jax.models.layers import flattened
from deepsec_jax.protocols import Images, Logits

_he = nnx.initializers.he_normal()


_by_fan_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform in +-1/sqrt(fan in), the default of PyTorch, which the paper's code uses."""


def _bias_by(fan_in: int) -> Callable[..., jax.Array]:
    """Uniform in +-1/sqrt(fan in), PyTorch's default for biases."""

    def bias(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return bias


def _paper_conv(inputs: int, filters: int, rngs: nnx.Rngs, *, padding: str = "VALID") -> nnx.Conv:
    return nnx.Conv(
        inputs, filters, (3, 3), padding=padding, kernel_init=_by_fan_in, bias_init=_bias_by(9 * inputs),
        rngs=rngs,
    )  # fmt: skip


def _paper_linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=_by_fan_in, bias_init=_bias_by(inputs), rngs=rngs)


def _conv(inputs: int, filters: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(inputs, filters, (3, 3), padding="SAME", kernel_init=_he, rngs=rngs)


def _pooled(side: int) -> int:
    """Side of the feature map after two blocks of (valid 3x3, valid 3x3, 2x2 pool)."""
    return ((side - 4) // 2 - 4) // 2


class MnistCNN(nnx.Module):
    """The paper's Table X: conv 32-32, pool, conv 64-64, pool, dense 200, dropout, dense 200, dense K.

    312,202 parameters for 28x28x1 and ten classes.  Convolutions are valid, so a 31x31 image (random
    resizing and padding) reaches the same 4x4 map.  Initial weights are drawn as in the paper's code.
    ``rngs`` is needed in training only, for dropout.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        if _pooled(min(height, width)) < 1:
            raise ValueError(f"MnistCNN needs images of at least 16x16, got {height}x{width}")
        self.conv1 = _paper_conv(channels, 32, rngs)
        self.conv2 = _paper_conv(32, 32, rngs)
        self.conv3 = _paper_conv(32, 64, rngs)
        self.conv4 = _paper_conv(64, 64, rngs)
        self.dense1 = _paper_linear(_pooled(height) * _pooled(width) * 64, 200, rngs)
        self.dropout = nnx.Dropout(0.5)
        self.dense2 = _paper_linear(200, 200, rngs)
        self.out = _paper_linear(200, classes, rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]; ``rngs`` is for dropout."""
        return self.layers(x, rngs=rngs)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every layer, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """Return the output of every layer after its ReLU and before a pool; the last are the logits."""
        first = nnx.relu(self.conv1(x))
        second = nnx.relu(self.conv2(first))
        third = nnx.relu(self.conv3(nnx.max_pool(second, (2, 2), strides=(2, 2))))
        fourth = nnx.relu(self.conv4(third))
        x = nnx.max_pool(fourth, (2, 2), strides=(2, 2))
        dense1 = nnx.relu(self.dense1(jax.lax.collapse(x, 1)))
        dense2 = nnx.relu(self.dense2(self.dropout(dense1, rngs=rngs)))
        return [first, second, third, fourth, dense1, dense2, self.out(dense2)]


class MnistCNNBlock(nnx.Module):
    """``MnistCNN`` with one more block (conv 128-128, pool): the paper's Model 2 for MNIST (section IX-B).

    The paper only states that one convolution block is added.  Ours follows the other two and doubles the
    filters.  Its convolutions are padded, because valid ones would leave nothing of the 4x4 map of 28x28 and
    31x31 images.  Its pool makes that 2x2, so the dense layers begin with 512 entries.  The rest is
    ``MnistCNN``: 431,242 parameters for 28x28x1 and ten classes.  ``rngs`` is needed in training only, for
    dropout.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        if _pooled(min(height, width)) < 2:
            raise ValueError(f"MnistCNNBlock needs images of at least 20x20, got {height}x{width}")
        layers = []
        for inputs, filters, padding in ((channels, 32, "VALID"), (32, 64, "VALID"), (64, 128, "SAME")):
            layers.append(_paper_conv(inputs, filters, rngs, padding=padding))
            layers.append(_paper_conv(filters, filters, rngs, padding=padding))
        self.convs = nnx.List(layers)
        rows, columns = _pooled(height) // 2, _pooled(width) // 2
        self.dense1 = _paper_linear(rows * columns * 128, 200, rngs)
        self.dropout = nnx.Dropout(0.5)
        self.dense2 = _paper_linear(200, 200, rngs)
        self.out = _paper_linear(200, classes, rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]; ``rngs`` is for dropout."""
        return self.layers(x, rngs=rngs)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every layer, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """Return the output of every layer after its ReLU and before a pool; the last are the logits."""
        outputs = []
        for index, conv in enumerate(self.convs):
            outputs.append(nnx.relu(conv(x)))
            x = nnx.max_pool(outputs[-1], (2, 2), strides=(2, 2)) if index % 2 else outputs[-1]
        dense1 = nnx.relu(self.dense1(jax.lax.collapse(x, 1)))
        dense2 = nnx.relu(self.dense2(self.dropout(dense1, rngs=rngs)))
        return [*outputs, dense1, dense2, self.out(dense2)]


class SmallCNN(nnx.Module):
    """Two convolutions and two dense layers, for images of 8x8 and up (scikit-learn's digits)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        if min(height, width) < 2:
            raise ValueError(f"SmallCNN needs images of at least 2x2, got {height}x{width}")
        self.conv1 = _conv(channels, 16, rngs)
        self.conv2 = _conv(16, 32, rngs)
        self.dense = nnx.Linear((height // 2) * (width // 2) * 32, 64, kernel_init=_he, rngs=rngs)
        self.out = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]."""
        del rngs  # no dropout here
        return self.layers(x)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every layer, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images) -> list[jax.Array]:
        """Return the output of every layer after its ReLU and before a pool; the last are the logits."""
        first = nnx.relu(self.conv1(x))
        second = nnx.relu(self.conv2(first))
        x = nnx.max_pool(second, (2, 2), strides=(2, 2))
        dense = nnx.relu(self.dense(jax.lax.collapse(x, 1)))
        return [first, second, dense, self.out(dense)]

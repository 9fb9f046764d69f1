"""The static models of ensemble adversarial training on MNIST (Tramer et al., ICLR 2018, arXiv:1705.07204).

Layers, dropout and initial weights as in the authors' code (ftramer/ensemble-adv-training, mnist.py).
Their model A is not included: DEEPSEC uses its own MNIST network instead, ``mnist_cnn``.
"""

import jax
from flax import nnx

from deepsec_jax.models.layers import flattened
from deepsec_jax.protocols import Images, Logits

# Keras's default, with biases of zero.
_glorot = nnx.initializers.glorot_uniform()
_he = nnx.initializers.he_normal()


def _conv(
    inputs: int, filters: int, size: int, rngs: nnx.Rngs, *, stride: int = 1, padding: str = "VALID"
) -> nnx.Conv:
    return nnx.Conv(
        inputs, filters, (size, size), strides=stride, padding=padding, kernel_init=_glorot, rngs=rngs
    )


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=_glorot, rngs=rngs)


def _strided(side: int) -> int:
    """Side of B's last feature map: padded 8x8 of stride 2, valid 6x6 of stride 2, valid 5x5."""
    return (-(-side // 2) - 6) // 2 + 1 - 4


class StaticB(nnx.Module):
    """Tramer's B: dropout 0.2, conv 64 8x8 / 2, conv 128 6x6 / 2, conv 128 5x5, dropout 0.5, dense K.

    Strides instead of pools; only the first convolution is padded.  28x28 ends at 1x1: 710,218 parameters
    for 28x28x1 and ten classes.  (DEEPSEC's B pads the first convolution by 17 pixels and ends at 8x8.)
    ``rngs`` is needed in training only, for dropout.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        if _strided(min(height, width)) < 1:
            raise ValueError(f"StaticB needs images of at least 27x27, got {height}x{width}")
        self.dropout_pixels = nnx.Dropout(0.2)
        self.conv1 = _conv(channels, 64, 8, rngs, stride=2, padding="SAME")
        self.conv2 = _conv(64, 128, 6, rngs, stride=2)
        self.conv3 = _conv(128, 128, 5, rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = _linear(_strided(height) * _strided(width) * 128, classes, rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]; ``rngs`` is for dropout."""
        return self.layers(x, rngs=rngs)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every layer, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """Return the output of every layer after its ReLU; the last are the logits."""
        first = nnx.relu(self.conv1(self.dropout_pixels(x, rngs=rngs)))
        second = nnx.relu(self.conv2(first))
        third = nnx.relu(self.conv3(second))
        return [first, second, third, self.out(jax.lax.collapse(self.dropout(third, rngs=rngs), 1))]


class StaticC(nnx.Module):
    """Tramer's C: conv 128 3x3, conv 64 3x3, dropout 0.25, dense 128, dropout 0.5, dense K.

    Neither padded nor pooled: 4,795,082 parameters for 28x28x1 and ten classes.  ``rngs`` is needed in
    training only, for dropout.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        if min(height, width) < 5:
            raise ValueError(f"StaticC needs images of at least 5x5, got {height}x{width}")
        self.conv1 = _conv(channels, 128, 3, rngs)
        self.conv2 = _conv(128, 64, 3, rngs)
        self.dropout_map = nnx.Dropout(0.25)
        self.dense = _linear((height - 4) * (width - 4) * 64, 128, rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = _linear(128, classes, rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]; ``rngs`` is for dropout."""
        return self.layers(x, rngs=rngs)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every layer, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """Return the output of every layer after its ReLU; the last are the logits."""
        first = nnx.relu(self.conv1(x))
        second = nnx.relu(self.conv2(first))
        dense = nnx.relu(self.dense(jax.lax.collapse(self.dropout_map(second, rngs=rngs), 1)))
        return [first, second, dense, self.out(self.dropout(dense, rngs=rngs))]


class StaticD(nnx.Module):
    """Tramer's D: four times dense 300 and dropout 0.5, dense K; images of any size.

    509,410 parameters for 28x28x1 and ten classes.  (DEEPSEC's D has one 300x300 layer and applies it
    three times.)  ``rngs`` is needed in training only, for dropout.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        sizes = (height * width * channels, 300, 300, 300)
        self.dense = nnx.List([nnx.Linear(inputs, 300, kernel_init=_he, rngs=rngs) for inputs in sizes])
        self.dropout = nnx.Dropout(0.5)
        self.out = _linear(300, classes, rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]; ``rngs`` is for dropout."""
        return self.layers(x, rngs=rngs)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every layer, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images, *, rngs: nnx.Rngs | None = None) -> list[jax.Array]:
        """Return the output of every layer after its ReLU; the last are the logits."""
        x, outputs = jax.lax.collapse(x, 1), []
        for dense in self.dense:
            outputs.append(nnx.relu(dense(x)))
            x = self.dropout(outputs[-1], rngs=rngs)
        return [*outputs, self.out(x)]

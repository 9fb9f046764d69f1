"""AlexNet for small images (Krizhevsky et al., NeurIPS 2012; in one tower, arXiv:1404.5997)."""

import jax
from flax import nnx

from deepsec_jax.models.layers import flattened
from deepsec_jax.protocols import Images, Logits

_he = nnx.initializers.he_normal()

_LAYERS = ((32, 5), (96, 5), (192, 3), (128, 3), (128, 3))
"""Filters and kernel side of each convolution."""

_POOLED = (0, 1, 4)
"""Convolutions that a pool follows."""

_WIDTH = 512


def _pooled(side: int) -> int:
    """Side of the feature map after three padded pools of stride 2."""
    for _ in _POOLED:
        side = -(-side // 2)
    return side


def _pool(x: Images) -> Images:
    pooled: Images = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    return pooled


class AlexNet(nnx.Module):
    """AlexNet for small images: five convolutions, three overlapping pools, two dense layers with dropout.

    The paper names AlexNet for MNIST (Model 3 of the transferability study, section IX-B) without sizes.  The
    order of layers, 5x5 and 3x3 kernels, 3x3 pools of stride 2 and dropout 1/2 are the original's.

    Changes for images of 28 to 36 pixels on a CPU: the first kernel is 5x5 of stride 1 (11x11 of stride 4
    would leave 7x7 of 28x28).  There are half as many filters as in the one-tower version (32, 96, 192, 128,
    128).  Dense layers have 512 units instead of 4096.  There is no local response normalisation, as in later
    versions.

    Everything is padded, so 28x28, 31x31 and 32x32 all end at 4x4: 1,929,578 parameters for 28x28x1 and ten
    classes, 1,931,178 for 32x32x3.  ``rngs`` is needed in training only.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, rngs: nnx.Rngs):
        height, width, inputs = image_shape
        if min(height, width) < 8:
            raise ValueError(f"AlexNet needs images of at least 8x8, got {height}x{width}")
        layers = []
        for filters, size in _LAYERS:
            layers.append(nnx.Conv(inputs, filters, (size, size), kernel_init=_he, rngs=rngs))
            inputs = filters
        self.convs = nnx.List(layers)
        self.dense1 = nnx.Linear(
            _pooled(height) * _pooled(width) * inputs, _WIDTH, kernel_init=_he, rngs=rngs
        )
        self.dense2 = nnx.Linear(_WIDTH, _WIDTH, kernel_init=_he, rngs=rngs)
        self.out = nnx.Linear(_WIDTH, classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

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
            x = _pool(outputs[-1]) if index in _POOLED else outputs[-1]
        x = self.dropout(jax.lax.collapse(x, 1), rngs=rngs)
        dense1 = nnx.relu(self.dense1(x))
        dense2 = nnx.relu(self.dense2(self.dropout(dense1, rngs=rngs)))
        return [*outputs, dense1, dense2, self.out(dense2)]

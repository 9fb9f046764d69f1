"""Densely connected networks for 32x32 images (Huang et al., CVPR 2017, arXiv:1608.06993)."""

import jax
import jax.numpy as jnp
from flax import nnx

from deepsec_jax.models.layers import flattened
from deepsec_jax.protocols import Images, Logits

# By fan-out, as in the authors' code.
_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _halved(x: Images) -> Images:
    """Mean of every 2x2 window; a last odd row or column is left out."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    windows = x[:, : 2 * rows, : 2 * columns].reshape(x.shape[0], rows, 2, columns, 2, x.shape[3])
    return windows.mean(axis=(2, 4))


class NormConv(nnx.Module):
    """Batch norm, ReLU, convolution: one step of every dense layer and transition."""

    def __init__(self, inputs: int, filters: int, size: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(inputs, momentum=0.9, rngs=rngs)
        self.conv = nnx.Conv(
            inputs, filters, (size, size), use_bias=False, kernel_init=_fan_out, rngs=rngs
        )  # fmt: skip

    def __call__(self, x: Images) -> Images:
        """Return the new feature map; the side does not change."""
        return self.conv(nnx.relu(self.norm(x)))


class DenseLayer(nnx.Module):
    """A bottleneck to 4 ``growth`` channels and a 3x3 convolution; its output is appended to the input."""

    def __init__(self, inputs: int, growth: int, *, rngs: nnx.Rngs):
        self.bottleneck = NormConv(inputs, 4 * growth, 1, rngs=rngs)
        self.conv = NormConv(4 * growth, growth, 3, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        """Return the input followed by ``growth`` new channels."""
        return jnp.concatenate((x, self.conv(self.bottleneck(x))), axis=-1)


class DenseNet(nnx.Module):
    """DenseNet-BC of depth 6n+4: three blocks of n dense layers, transitions that halve channels and side.

    The paper names DenseNet for CIFAR-10 (Model 3 of the transferability study, section IX-B) without a
    depth.  Its code has the 121 layers of ImageNet, among the static models of ensemble adversarial training.
    The default, depth 40 and growth 12, can be trained on two cores: 176,122 parameters for 32x32x3 and ten
    classes, 1.8 times the multiplications of ResNet-20.  ``depth=100`` is the authors' own smallest, 0.8
    million.  Global average pooling, so larger images (random resizing and padding to 36x36) are accepted.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        depth: int = 40,
        growth: int = 12,
        rngs: nnx.Rngs,
    ):
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n+4 (10, 16, 22, ...), got {depth}")
        height, width, inputs = image_shape
        if min(height, width) < 4:
            raise ValueError(f"DenseNet needs images of at least 4x4, got {height}x{width}")
        channels = 2 * growth
        self.stem = nnx.Conv(inputs, channels, (3, 3), use_bias=False, kernel_init=_fan_out, rngs=rngs)
        blocks, transitions = [], []
        for block in range(3):
            if block:
                transitions.append(NormConv(channels, channels // 2, 1, rngs=rngs))
                channels //= 2
            layers = []
            for _ in range((depth - 4) // 6):
                layers.append(DenseLayer(channels, growth, rngs=rngs))
                channels += growth
            blocks.append(nnx.List(layers))
        self.blocks = nnx.List(blocks)
        self.transitions = nnx.List(transitions)
        self.norm = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.out = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]."""
        del rngs  # no dropout here
        return self.layers(x)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every block, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images) -> list[jax.Array]:
        """Return the output of the first convolution, of every block and transition, and the logits.

        A block's output contains those of all its layers; the last block's is taken after the norm and the
        ReLU.
        """
        x = self.stem(x)
        outputs = [x]
        for index, block in enumerate(self.blocks):
            if index:
                outputs.append(x)
                x = _halved(self.transitions[index - 1](x))
                outputs.append(x)
            for layer in block:
                x = layer(x)
        last = nnx.relu(self.norm(x))
        return [*outputs, last, self.out(last.mean(axis=(1, 2)))]

"""Residual networks for 32x32 images (He et al., CVPR 2016, arXiv:1512.03385, section 4.2)."""

import jax
from flax import nnx

from deepsec_jax.models.layers import flattened
from deepsec_jax.protocols import Images, Logits

# He-style initialisation by fan-out, as in the paper's code.
_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(inputs: int, filters: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs, filters, (size, size), strides=stride, padding="SAME", use_bias=False,
        kernel_init=_fan_out, rngs=rngs,
    )  # fmt: skip


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut: the identity, or 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, filters: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, filters, 3, stride, rngs)
        self.norm1 = nnx.BatchNorm(filters, momentum=0.9, rngs=rngs)
        self.conv2 = _conv(filters, filters, 3, 1, rngs)
        self.norm2 = nnx.BatchNorm(filters, momentum=0.9, rngs=rngs)
        changes_shape = stride != 1 or inputs != filters
        self.shortcut = (
            nnx.List([_conv(inputs, filters, 1, stride, rngs),
                      nnx.BatchNorm(filters, momentum=0.9, rngs=rngs)])
            if changes_shape
            else nnx.List([])
        )  # fmt: skip

    def __call__(self, x: Images) -> Images:
        """Return the feature map after both convolutions and the shortcut."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        for layer in self.shortcut:
            x = layer(x)
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """ResNet of depth 6n+2 with 16, 32 and 64 filters; depth 20 is the paper's Table XI.

    Global average pooling, so larger images (random resizing and padding to 36x36) are accepted.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, depth: int = 20, rngs: nnx.Rngs):
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n+2 (8, 14, 20, ...), got {depth}")
        blocks = (depth - 2) // 6
        self.stem = _conv(image_shape[2], 16, 3, 1, rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        layers, inputs = [], 16
        for stage, filters in enumerate((16, 32, 64)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(inputs, filters, stride, rngs=rngs))
                inputs = filters
        self.blocks = nnx.List(layers)
        self.out = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x: Images, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Return logits [B, K]."""
        del rngs  # no dropout here
        return self.layers(x)[-1]

    def activations(self, x: Images) -> tuple[jax.Array, ...]:
        """Return the output of every block, float32 [B, d]; the last are the logits."""
        return flattened(self.layers(x))

    def layers(self, x: Images) -> list[jax.Array]:
        """Return the output of the first convolution and of every block, after the ReLU, and the logits."""
        outputs = [nnx.relu(self.norm(self.stem(x)))]
        for block in self.blocks:
            outputs.append(block(outputs[-1]))
        return [*outputs, self.out(outputs[-1].mean(axis=(1, 2)))]

"""The package's networks in PyTorch, fed with exported weights, for comparison with PyTorch libraries.

Runs under the peers' Python: imports torch and NumPy, nothing of jax.  Images are channels first here.
Weights come as flat names (``conv1/kernel``, ``blocks/3/norm1/scale``) in flax's layouts.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Weights = dict[str, np.ndarray]


class Conv(nn.Conv2d):
    """Convolution with flax's padding: SAME with stride 2 pads an even side by (0, 1), not (1, 1)."""

    def __init__(self, weights: Weights, name: str, *, stride: int = 1, same: bool):
        kernel = weights[f"{name}/kernel"]  # height, width, in, out
        size, _, inputs, outputs = kernel.shape
        bias = weights.get(f"{name}/bias")
        # With stride 1 and an odd size both libraries pad alike, so nothing needs a copy.
        even = same and stride == 1
        super().__init__(
            inputs, outputs, size, stride, padding=size // 2 if even else 0, bias=bias is not None
        )
        self.pad_first = same and not even
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
            if bias is not None and self.bias is not None:
                self.bias.copy_(torch.from_numpy(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        if self.pad_first:
            size, stride = self.kernel_size[0], self.stride[0]
            rows, columns = (max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[-2:])
            if rows or columns:
                x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)


class Norm(nn.BatchNorm2d):
    """Batch normalisation with the running figures of a trained network."""

    def __init__(self, weights: Weights, name: str):
        scale = weights[f"{name}/scale"]
        super().__init__(len(scale), eps=1e-5)
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(scale))
            self.bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))
            self.running_mean.copy_(torch.from_numpy(weights[f"{name}/mean"]))
            self.running_var.copy_(torch.from_numpy(weights[f"{name}/var"]))


def _dense(weights: Weights, name: str, *, channels: int = 0) -> nn.Linear:
    """Return a dense layer; ``channels`` > 0 where its inputs are a flattened map of that many channels.

    flax flattens height, width, channel and torch channel, height, width, so the rows are reordered once
    here rather than the activations in every call.
    """
    kernel = weights[f"{name}/kernel"]  # in, out
    if channels:
        side = round((kernel.shape[0] / channels) ** 0.5)
        kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    layer = nn.Linear(*kernel.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel.T.copy()))
        layer.bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))
    return layer


class MnistCNN(nn.Module):
    """The paper's seven-layer MNIST network (dropout is the identity here)."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            Conv(weights, f"conv{i}", same=False) for i in (1, 2, 3, 4)
        )
        self.dense1 = _dense(weights, "dense1", channels=64)
        self.dense2, self.out = _dense(weights, "dense2"), _dense(weights, "out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.max_pool2d(F.relu(self.conv4(F.relu(self.conv3(x)))), 2)
        return self.out(F.relu(self.dense2(F.relu(self.dense1(x.flatten(1))))))


class SmallCNN(nn.Module):
    """The small network for digits."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.conv1, self.conv2 = (Conv(weights, f"conv{i}", same=True) for i in (1, 2))
        self.dense, self.out = _dense(weights, "dense", channels=32), _dense(weights, "out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.out(F.relu(self.dense(x.flatten(1))))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, weights: Weights, name: str, stride: int):
        super().__init__()
        self.conv1 = Conv(weights, f"{name}/conv1", stride=stride, same=True)
        self.norm1 = Norm(weights, f"{name}/norm1")
        self.conv2 = Conv(weights, f"{name}/conv2", same=True)
        self.norm2 = Norm(weights, f"{name}/norm2")
        self.shortcut = nn.Sequential()
        if f"{name}/shortcut/0/kernel" in weights:
            self.shortcut.append(Conv(weights, f"{name}/shortcut/0", stride=stride, same=True))
            self.shortcut.append(Norm(weights, f"{name}/shortcut/1"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + y)


class ResNet(nn.Module):
    """ResNet for 32x32 images, of whatever depth the weights have."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.stem, self.norm = Conv(weights, "stem", same=True), Norm(weights, "norm")
        count = 1 + max(int(name.split("/")[1]) for name in weights if name.startswith("blocks/"))
        strided = {count // 3, 2 * count // 3}
        self.blocks = nn.Sequential(
            *(Block(weights, f"blocks/{i}", 2 if i in strided else 1) for i in range(count))
        )
        self.out = _dense(weights, "out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.out(x.mean((2, 3)))


class AlexNet(nn.Module):
    """The package's AlexNet: five convolutions, three padded pools, three dense layers."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.convs = nn.ModuleList(Conv(weights, f"convs/{i}", same=True) for i in range(5))
        self.dense1 = _dense(weights, "dense1", channels=self.convs[-1].out_channels)
        self.dense2, self.out = _dense(weights, "dense2"), _dense(weights, "out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        for index, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if index in (0, 1, 4):
                # As flax's SAME: an odd side is padded on both sides, an even one at its end.
                x = F.max_pool2d(x, 3, 2, padding=x.shape[-1] % 2, ceil_mode=x.shape[-1] % 2 == 0)
        return self.out(F.relu(self.dense2(F.relu(self.dense1(x.flatten(1))))))


class NormConv(nn.Module):
    """Batch norm, ReLU, convolution."""

    def __init__(self, weights: Weights, name: str):
        super().__init__()
        self.norm, self.conv = Norm(weights, f"{name}/norm"), Conv(weights, f"{name}/conv", same=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        return self.conv(F.relu(self.norm(x)))


class DenseNet(nn.Module):
    """DenseNet-BC with three blocks, of whatever depth the weights have."""

    def __init__(self, weights: Weights):
        super().__init__()
        self.stem, self.norm = Conv(weights, "stem", same=True), Norm(weights, "norm")
        count = 1 + max(int(name.split("/")[2]) for name in weights if name.startswith("blocks/0/"))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    NormConv(weights, f"blocks/{block}/{layer}/bottleneck"),
                    NormConv(weights, f"blocks/{block}/{layer}/conv"),
                )
                for layer in range(count)
            )
            for block in range(3)
        )
        self.transitions = nn.ModuleList(NormConv(weights, f"transitions/{i}") for i in range(2))
        self.out = _dense(weights, "out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; images and maps are channels first."""
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index:
                x = F.avg_pool2d(self.transitions[index - 1](x), 2)
            for layer in block:
                x = torch.cat((x, layer(x)), 1)
        return self.out(F.relu(self.norm(x)).mean((2, 3)))


NETWORKS = {
    "mnist_cnn": MnistCNN, "small_cnn": SmallCNN, "resnet20": ResNet, "resnet56": ResNet,
    "alexnet": AlexNet, "densenet": DenseNet,
}  # fmt: skip


def load_network(name: str, weights: Weights) -> nn.Module:
    """Return the network in evaluation mode, with nothing in it that asks for a gradient."""
    network = NETWORKS[name](weights).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network

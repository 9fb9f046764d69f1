"""The table of networks, and one way to build each."""

from collections.abc import Callable
from functools import partial

from flax import nnx

from deepsec_jax.catalog import lookup
from deepsec_jax.models.alexnet import AlexNet
from deepsec_jax.models.cnn import MnistCNN, MnistCNNBlock, SmallCNN
from deepsec_jax.models.densenet import DenseNet
from deepsec_jax.models.ensemble import StaticB, StaticC, StaticD
from deepsec_jax.models.resnet import ResNet
from deepsec_jax.randomness import root_key

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "small_cnn": SmallCNN,
    "mnist_cnn": MnistCNN,
    "mnist_cnn_block": MnistCNNBlock,
    "resnet20": partial(ResNet, depth=20),
    "resnet56": partial(ResNet, depth=56),
    "alexnet": AlexNet,
    "densenet": DenseNet,
    "static_b": StaticB,
    "static_c": StaticC,
    "static_d": StaticD,
}
"""Every network by name."""


def build(name: str, image_shape: tuple[int, int, int], classes: int, *, seed: int = 0) -> nnx.Module:
    """Return a freshly initialised model in training mode (call ``.eval()`` before attacking it)."""
    return lookup(MODELS, name, "model")(image_shape, classes, rngs=nnx.Rngs(root_key(seed)))

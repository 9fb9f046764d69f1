"""The undefended models, by name, and adapters for models of other libraries.

Every class is ``Model(image_shape, classes, rngs=...)`` and returns logits.  ``from_callable``,
``from_equinox``, ``from_haiku`` and ``from_keras`` convert models of other libraries.
"""

from collections.abc import Callable
from functools import partial

from flax import nnx

from deepsec_jax.catalog import lookup
from deepsec_jax.models.adapted import from_callable as from_callable
from deepsec_jax.models.alexnet import AlexNet as AlexNet
from deepsec_jax.models.cnn import MnistCNN as MnistCNN
from deepsec_jax.models.cnn import MnistCNNBlock as MnistCNNBlock
from deepsec_jax.models.cnn import SmallCNN as SmallCNN
from deepsec_jax.models.densenet import DenseNet as DenseNet
from deepsec_jax.models.ensemble import StaticB as StaticB
from deepsec_jax.models.ensemble import StaticC as StaticC
from deepsec_jax.models.ensemble import StaticD as StaticD
from deepsec_jax.models.equinox_module import from_equinox as from_equinox
from deepsec_jax.models.haiku_net import from_haiku as from_haiku
from deepsec_jax.models.keras_model import from_keras as from_keras
from deepsec_jax.models.resnet import ResNet as ResNet
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


def build(name: str, image_shape: tuple[int, int, int], classes: int, *, seed: int = 0) -> nnx.Module:
    """Return a freshly initialised model in training mode (call ``.eval()`` before attacking it)."""
    return lookup(MODELS, name, "model")(image_shape, classes, rngs=nnx.Rngs(root_key(seed)))

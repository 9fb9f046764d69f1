"""The raw models, by name.  Every model is ``Model(image_shape, classes, rngs=...)`` and returns logits."""

from collections.abc import Callable
from functools import partial

from flax import nnx

from deepsec_jax.catalog import lookup
from deepsec_jax.models.cnn import MnistCNN as MnistCNN
from deepsec_jax.models.cnn import SmallCNN as SmallCNN
from deepsec_jax.models.resnet import ResNet as ResNet

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "small_cnn": SmallCNN,
    "mnist_cnn": MnistCNN,
    "resnet20": partial(ResNet, depth=20),
    "resnet56": partial(ResNet, depth=56),
}


def build(name: str, image_shape: tuple[int, int, int], classes: int, *, seed: int = 0) -> nnx.Module:
    """Return a freshly initialised model in training mode (call ``.eval()`` before attacking it)."""
    return lookup(MODELS, name, "model")(image_shape, classes, rngs=nnx.Rngs(seed))

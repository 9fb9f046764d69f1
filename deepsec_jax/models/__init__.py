"""The undefended models, by name, pretrained ones, and adapters for models of other libraries.

Every class is ``Model(image_shape, classes, rngs=...)`` and returns logits.  ``from_callable``,
``from_equinox``, ``from_haiku`` and ``from_keras`` convert models of other libraries.

``load_pretrained(name)`` also loads defended models.  It comes from :mod:`deepsec_jax.pretrained`, which
imports this package, and is imported when first used.
"""

import importlib
from typing import Any

from deepsec_jax.models.adapted import from_callable
from deepsec_jax.models.alexnet import AlexNet
from deepsec_jax.models.averaged import AveragedLogits, AveragedProbabilities, MajorityVote
from deepsec_jax.models.cnn import MnistCNN, MnistCNNBlock, SmallCNN
from deepsec_jax.models.densenet import DenseNet
from deepsec_jax.models.ensemble import StaticB, StaticC, StaticD
from deepsec_jax.models.equinox_module import from_equinox
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.models.haiku_net import from_haiku
from deepsec_jax.models.keras_model import from_keras
from deepsec_jax.models.resnet import ResNet
from deepsec_jax.models.table import MODELS, build
from deepsec_jax.models.wrappers import EOT, Normalised, Randomised, Scaled, StraightThrough, straight_through

__all__ = [
    "EOT",
    "MODELS",
    "AlexNet",
    "AveragedLogits",
    "AveragedProbabilities",
    "DenseNet",
    "Guarded",
    "MajorityVote",
    "MnistCNN",
    "MnistCNNBlock",
    "Normalised",
    "Randomised",
    "ResNet",
    "Scaled",
    "SmallCNN",
    "StaticB",
    "StaticC",
    "StaticD",
    "StraightThrough",
    "build",
    "from_callable",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "load_pretrained",
    "straight_through",
]

ABOVE = {"load_pretrained": "deepsec_jax.pretrained"}
"""Public names defined in modules that import this package -> their modules."""


def __getattr__(name: str) -> Any:
    if name in ABOVE:
        return getattr(importlib.import_module(ABOVE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__

"""What the command line is pointed at in its tests: models by function, and images they classify."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from conftest import make_linear
from flax import nnx

from deepsec_jax.pytree import Struct

SHAPE = (4, 4, 1)
MODULE = "deepsec_test_models"


class Flat(Struct):
    """Returns one number per image instead of logits."""

    weights: object

    def __call__(self, x):
        return x.reshape(x.shape[0], -1) @ self.weights


class Models:
    """A module of model functions, as a user's file would be."""

    number = 3

    @staticmethod
    def linear():
        return make_linear(SHAPE)

    @staticmethod
    def plain():
        return lambda x: x.reshape(len(x), -1)[:, :3]

    @staticmethod
    def nothing():
        return None

    @staticmethod
    def training():
        return nnx.Dropout(0.5)

    @staticmethod
    def sick():
        model = make_linear(SHAPE)
        return model.replace(bias=model.bias * jnp.nan)

    @staticmethod
    def larger():
        return make_linear((8, 8, 1))

    @staticmethod
    def flat():
        return Flat(jnp.ones(16))

    @staticmethod
    def undeclared():
        return Flat(jax.random.split(jax.random.key(0), 2))

    @staticmethod
    def broken():
        raise RuntimeError("no weights\nat hand")

    @staticmethod
    def asks(width):
        return make_linear((width, width, 1))


def make_npz(path: Path) -> Path:
    """Write 20 training and 100 test images, each with the class that the linear model finds."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(120, *SHAPE)).astype(np.float32)
    y = np.asarray(make_linear(SHAPE)(jnp.asarray(x))).argmax(1)
    np.savez(path, x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    return path

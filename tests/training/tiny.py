"""A training of seconds in which everything random that can be is: dropout, statistics, augmentation.

``python tiny.py FOLDER`` trains there and kills itself (SIGKILL) while the last but one epoch is judged.
"""

import os
import signal
import sys

import jax
from flax import nnx

from deepsec_jax import data, models, training


class TinyNet(nnx.Module):
    """Convolution, batch norm, dropout, dense."""

    def __init__(self, image_shape, classes, *, rngs):
        height, width, channels = image_shape
        self.conv = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.25)
        self.out = nnx.Linear(height * width * 4, classes, rngs=rngs)

    def __call__(self, x, *, rngs=None):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.out(self.dropout(jax.lax.collapse(x, 1), rngs=rngs))


RECIPE = training.Recipe(
    name="tiny", data="digits", model="tiny", epochs=4, batch_size=32, optimizer="sgd", learning_rate=0.02,
    schedule="one_cycle", weight_decay=1e-4, augment="shift_flip", seed=7, source="tests",
)  # fmt: skip


def dataset() -> data.Dataset:
    """The first 200 training and 64 test images of digits."""
    digits = data.load("digits")
    return data.Dataset(
        "digits",
        data.Split(digits.train.images[:200], digits.train.labels[:200]),
        data.Split(digits.test.images[:64], digits.test.labels[:64]),
        digits.class_names,
    )


class ActsInEpoch:
    """A score (clean accuracy) that does something else instead when it is asked in epoch ``epoch``."""

    def __init__(self, epoch, act):
        self.calls, self.epoch, self.act = 0, epoch, act

    def __call__(self, model, validation):
        self.calls += 1
        if self.calls > self.epoch:
            self.act()
        return training.accuracy(model, validation)


if __name__ == "__main__":
    models.MODELS["tiny"] = TinyNet
    killed = ActsInEpoch(RECIPE.epochs - 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    training.train(RECIPE, dataset(), sys.argv[1], score=killed)

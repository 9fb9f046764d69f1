"""Every defense with settings of seconds, and fixtures: digits, a base, every defense fitted once."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from deepsec_jax import data, defenses, models, training
from deepsec_jax.defenses import DEFENSES

RECIPE = replace(training.recipe("digits-small"), name="tests", epochs=1, batch_size=32)
FEW = {
    "nat": {}, "eat": {"sources": ("small_cnn",)}, "pat": {"steps": 2, "step_size": 0.1, "judge_steps": 2},
    "dd": {}, "igr": {"lam": 0.1}, "eit": {"crop": 7, "sweeps": 5}, "rt": {"smallest": 8, "largest": 9},
    "pd": {"filters": 4, "blocks": 1, "mixtures": 2, "levels": 17, "changes": (("epochs", 1),)},
    "te": {"levels": 4, "steps": 2}, "rc": {"radius": 0.1, "points": 20},
    "lid": {"k": 3, "minibatch": 6, "fpr": 0.25},
    "fs": {"fpr": 0.25}, "magnet": {"fpr": 0.25, "changes": (("epochs", 1), ("batch_size", 32))},
}  # fmt: skip
KEEPING = [name for name in ("rt", "pd", "rc", "lid", "fs", "magnet") if name in DEFENSES]
"""Those that put something around the base's own network, and train no other classifier."""


def few(name):
    return DEFENSES[name](**FEW.get(name, {}))


def weights(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


def asked_of_training(defense, base, digits, monkeypatch):
    """What a defense asks of each training, of which none takes place: the options given to ``train``."""
    asked = []

    def not_trained(recipe, data, folder, **options):
        del data, folder
        asked.append(options)
        return training.Saved(base.trained, recipe, {})

    monkeypatch.setattr(defenses.base, "train", not_trained)
    defense.fit(base, digits, key=jax.random.key(0))
    return asked


@pytest.fixture(scope="module")
def digits():
    whole = data.load("digits")
    return replace(
        whole,
        train=whole.train.take(np.arange(160)),
        test=whole.test.take(np.arange(40)),
    )


@pytest.fixture(scope="module")
def base(digits):
    network = models.build("small_cnn", digits.image_shape, digits.classes, seed=1)
    network.eval()
    return defenses.base_of(training.Saved(network, RECIPE, {}), digits)


@pytest.fixture(scope="module")
def fitted(base, digits, tmp_path_factory):
    """A folder, and every defense fitted into it once, when it is first asked for."""
    folder = tmp_path_factory.mktemp("defended")
    return folder, _Fitted(folder, base, digits)


class _Fitted(dict):
    def __init__(self, folder, base, digits):
        self.folder, self.base, self.digits = folder, base, digits

    def __missing__(self, name):
        card = {"name": name, "preset": "paper", "base": "tests", "seed": 3}
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
            self[name] = defenses.fit_into(
                self.folder / name, few(name), self.base, self.digits, key=jax.random.key(3), card=card
            )
        return self[name]

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
    "dd": {}, "igr": {"lam": 0.1},
}  # fmt: skip


def few(name):
    return DEFENSES[name](**FEW.get(name, {}))


def weights(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


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
    """Every defense fitted once, into a folder."""
    folder, made = tmp_path_factory.mktemp("defended"), {}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
        for name in DEFENSES:
            card = {"name": name, "preset": "paper", "base": "tests", "seed": 3}
            made[name] = defenses.fit_into(
                folder / name, few(name), base, digits, key=jax.random.key(3), card=card
            )
    return folder, made

"""Recipes: the optimiser's first steps by hand, schedules, what is decayed, and plain data."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from deepsec_jax import models
from deepsec_jax.catalog import UnknownName
from deepsec_jax.training import RECIPES, Recipe, recipe
from deepsec_jax.training import recipe as recipe_function

SGD = Recipe(
    name="t", data="digits", model="small_cnn", epochs=10, batch_size=10, optimizer="sgd",
    learning_rate=0.5, schedule="constant", weight_decay=0.25,
)  # fmt: skip


def updates(recipe, params, gradients, steps_per_epoch=4):
    """The update of each step, parameters applied in between."""
    transformation = recipe.transformation(steps_per_epoch)
    state, found = transformation.init(params), []
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes integer and float scalars
        for gradient in gradients:
            update, state = transformation.update(gradient, state, params)
            params = optax.apply_updates(params, update)
            found.append(update)
    return found


def test_sgd_by_hand():
    """Nesterov: v = 0.9 v + g, step = -rate (g + 0.9 v); L2 0.25 w joins g of the matrix only."""
    params = {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}
    gradient = {"kernel": jnp.array([[1.0]]), "bias": jnp.array([1.0])}
    first, second = updates(SGD, params, [gradient, gradient])
    # kernel: g = 1 + 0.25*2 = 1.5, v = 1.5, step = -0.5 (1.5 + 1.35); bias: g = 1, step = -0.5 * 1.9
    np.testing.assert_allclose(first["kernel"], [[-1.425]], rtol=1e-6)
    np.testing.assert_allclose(first["bias"], [-0.95], rtol=1e-6)
    # kernel: w = 0.575, g = 1.14375, v = 2.49375, step = -0.5 (1.14375 + 2.244375)
    np.testing.assert_allclose(second["kernel"], [[-1.6940625]], rtol=1e-6)
    # bias: v = 1.9, step = -0.5 (1 + 1.71)
    np.testing.assert_allclose(second["bias"], [-1.355], rtol=1e-6)


def test_adam_by_hand():
    """Adam normalises the decayed gradient: L2, not AdamW (whose decay would add to the step)."""
    adam = replace(SGD, optimizer="adam", learning_rate=0.1)
    params = {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}
    gradient = {"kernel": jnp.array([[1.0]]), "bias": jnp.array([1.0])}
    zero = {"kernel": jnp.array([[-0.475]]), "bias": jnp.array([0.0])}
    first, second = updates(adam, params, [gradient, zero])
    np.testing.assert_allclose(first["kernel"], [[-0.1]], rtol=1e-5)
    np.testing.assert_allclose(first["bias"], [-0.1], rtol=1e-5)
    # g1 = 1.5 and, at w = 1.9, g2 = -0.475 + 0.475 = 0, so m = 0.09 * 1.5 and v = 0.000999 * 2.25
    mean, square = 0.09 / (1 - 0.9**2), 0.999 * 0.001 / (1 - 0.999**2)
    expected = -0.1 * mean / np.sqrt(square)
    np.testing.assert_allclose(second["kernel"], [[expected]], rtol=1e-4)
    np.testing.assert_allclose(second["bias"], [expected], rtol=1e-4)


def rate(recipe, step, steps_per_epoch):
    """Learning rate at a step: zero gradients until then, a one at it, momentum's 1.9 divided out."""
    transformation = replace(recipe, weight_decay=0.0).transformation(steps_per_epoch)
    params = {"bias": jnp.zeros(1)}
    state = transformation.init(params)
    update_of = jax.jit(transformation.update)
    with jax.numpy_dtype_promotion("standard"):  # optax's piecewise schedule mixes kinds
        for _ in range(step):
            _, state = update_of({"bias": jnp.zeros(1)}, state, params)
        update, _ = update_of({"bias": jnp.ones(1)}, state, params)
    return float(-update["bias"][0]) / 1.9


@pytest.mark.parametrize(
    ("schedule", "step", "share"),
    [
        ("constant", 0, 1.0), ("constant", 39, 1.0),
        ("one_cycle", 0, 0.1), ("one_cycle", 5, 0.55), ("one_cycle", 10, 1.0), ("one_cycle", 25, 0.5),
        ("one_cycle", 39, 1 / 30), ("one_cycle", 40, 0.0),
        ("steps", 0, 1.0), ("steps", 15, 1.0), ("steps", 16, 0.1), ("steps", 23, 0.1), ("steps", 24, 1e-2),
        ("steps", 31, 1e-2), ("steps", 32, 1e-3), ("steps", 35, 1e-3), ("steps", 36, 5e-4),
    ],
)  # fmt: skip
def test_schedules(schedule, step, share):
    """40 steps: peak at a quarter; drops after 40, 60, 80 and 90 %."""
    found = rate(replace(SGD, schedule=schedule), step, steps_per_epoch=4)
    np.testing.assert_allclose(found, 0.5 * share, rtol=1e-4, atol=1e-7)


def decayed(params) -> set[str]:
    """Names of the parameters that weight decay moves (gradients zero)."""
    state = nnx.state(params, nnx.Param)
    ones = jax.tree.map(jnp.ones_like, state)
    (update,) = updates(SGD, ones, [jax.tree.map(jnp.zeros_like, state)])
    paths = jax.tree_util.tree_flatten_with_path(update)[0]
    return {jax.tree_util.keystr(path) for path, leaf in paths if np.any(np.asarray(leaf) != 0)}


def all_names(model) -> set[str]:
    paths = jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))[0]
    return {jax.tree_util.keystr(path) for path, _ in paths}


class Layers(nnx.Module):
    """Every kind of layer that the raw models have."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.out = nnx.Linear(2, 3, rngs=rngs)


def test_weight_decay_is_on_kernels_only():
    model = Layers(nnx.Rngs(0))
    assert decayed(model) == {name for name in all_names(model) if "kernel" in name}
    assert len(decayed(model)) == 2 and len(all_names(model)) == 6


def test_weight_decay_test_sees_a_decayed_bias(monkeypatch):
    module = __import__(recipe_function.__module__, fromlist=["recipe"])
    monkeypatch.setattr(module, "_is_kernel", lambda params: jax.tree.map(lambda leaf: True, params))
    assert decayed(Layers(nnx.Rngs(0))) == all_names(Layers(nnx.Rngs(0)))


def test_every_recipe_is_named_and_builds():
    for name, each in RECIPES.items():
        assert each.name == name and each.model in models.MODELS and each.source
        assert Recipe.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    for name in ("mnist", "cifar10"):
        assert recipe(f"{name}-small").model == recipe(f"{name}-paper").model
        assert recipe(f"{name}-small").source.startswith("ours")
    assert recipe("cifar10-paper").weight_decay == 1e-4, "Table XII"


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "lion"}, {"schedule": "cosine"}, {"augment": "mixup"}, {"epochs": 0}, {"batch_size": 0},
        {"validation": 0.0}, {"validation": 1.0}, {"validation": float("nan")},
    ],
)  # fmt: skip
def test_senseless_values_are_refused(change):
    (value,) = change.values()
    with pytest.raises(ValueError, match=str(value)):
        replace(SGD, **change)


def test_unknown_fields_and_names():
    with pytest.raises(ValueError, match="unknown recipe fields lr"):
        Recipe.from_dict({**SGD.to_dict(), "lr": 1})
    with pytest.raises(UnknownName, match="Did you mean mnist-small"):
        recipe("mnist-smal")

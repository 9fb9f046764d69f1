"""Training: recipes, the one loop, and checkpoints that carry their recipe."""

from deepsec_jax.training.checkpoints import CheckpointError, Saved, load_model, load_network, save_model
from deepsec_jax.training.loop import accuracy, cross_entropy, frozen, predictions, train
from deepsec_jax.training.recipe import RECIPES, Recipe, recipe

__all__ = [
    "RECIPES",
    "CheckpointError",
    "Recipe",
    "Saved",
    "accuracy",
    "cross_entropy",
    "frozen",
    "load_model",
    "load_network",
    "predictions",
    "recipe",
    "save_model",
    "train",
]


def __dir__() -> list[str]:
    return __all__

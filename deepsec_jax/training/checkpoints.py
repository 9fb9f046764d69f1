"""Saving and loading models: orbax arrays beside the recipe that rebuilds the network.

A model folder holds ``recipe.json`` (recipe, image shape, classes, figures) and ``model/`` (orbax).
It is written aside and renamed, so a folder with a recipe is complete.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from deepsec_jax import models
from deepsec_jax.training.recipe import Recipe


class CheckpointError(ValueError):
    """A model folder that cannot be loaded; one line with the value and the remedy."""


@dataclass(frozen=True)
class Saved:
    """A loaded model in evaluation mode, its recipe, and the figures written with it."""

    model: nnx.Module
    recipe: Recipe
    figures: dict[str, Any]


def save_model(
    folder: str | os.PathLike[str],
    model: nnx.Module,
    recipe: Recipe,
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    figures: dict[str, Any],
) -> None:
    """Write a model folder; an existing one is an error, never overwritten."""
    folder = Path(folder).absolute()
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    card = {
        "recipe": recipe.to_dict(), "image_shape": list(image_shape), "classes": classes, "figures": figures
    }  # fmt: skip
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        written = aside / "model-folder"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(written / "model", nnx.state(model, (nnx.Param, nnx.BatchStat)))
        (written / "recipe.json").write_text(json.dumps(card, indent=1) + "\n")
        written.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_model(folder: str | os.PathLike[str]) -> Saved:
    """Rebuild the model of a folder that :func:`save_model` wrote, in evaluation mode.

    Raises:
        CheckpointError: no such folder, or its recipe and weights do not fit together.
    """
    folder = Path(folder).absolute()
    card_file = folder / "recipe.json"
    if not card_file.is_file():
        raise CheckpointError(f"no model in {folder}: give a folder with recipe.json and model/")
    try:
        card = json.loads(card_file.read_text())
        recipe = Recipe.from_dict(card["recipe"])
        shape, classes, figures = tuple(card["image_shape"]), card["classes"], card["figures"]
        model = nnx.eval_shape(lambda: models.build(recipe.model, shape, classes, seed=recipe.seed))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{card_file} is damaged ({error}): train again or restore a copy") from None
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            nnx.update(model, checkpointer.restore(folder / "model", wanted))
    except (ValueError, KeyError, TypeError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"the weights in {folder} are damaged or of another network than {recipe.model} "
            f"({first_line}): train again or restore a copy"
        ) from None
    model.eval()
    return Saved(model, recipe, figures)

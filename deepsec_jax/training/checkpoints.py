"""Saving and loading models: orbax arrays beside the recipe that rebuilds the network.

A model folder holds ``recipe.json`` (recipe, image shape, classes, figures, digest of the weights'
files) and ``model/`` (orbax).
It is written to a temporary path and renamed, so a folder with a recipe is complete.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from deepsec_jax import models
from deepsec_jax.placement import leads, on_devices, together
from deepsec_jax.randomness import root_key
from deepsec_jax.training.recipe import Recipe

DEFENSE_CARD = "defense.json"
"""File that :mod:`deepsec_jax.defenses.folders` adds to the folder of a defended model."""


class CheckpointError(ValueError):
    """A model folder that cannot be loaded; one line with the value and the remedy."""


KEPT = (nnx.Param, nnx.BatchStat)
"""Variables that training changes and a folder holds.  Random streams and plain arrays are built again."""

Build = Callable[[nnx.Rngs, int], nnx.Module]
"""``build(rngs, in_channels) -> network``: makes a network that is not in ``MODELS``."""


def network(
    recipe: Recipe, image_shape: tuple[int, int, int], classes: int, build: Build | None = None
) -> nnx.Module:
    """Return the untrained network of a recipe, initialised from its seed.

    Args:
        recipe: names the model and the seed.
        image_shape: height, width and channels of the network's input.
        classes: number of classes.
        build: makes it instead of the recipe's model.

    Raises:
        ValueError: it has variables that are neither :data:`KEPT` nor random streams.
    """
    if build is not None:
        made = build(nnx.Rngs(root_key(recipe.seed)), image_shape[2])
    else:
        made = models.build(recipe.model, image_shape, classes, seed=recipe.seed)
    for path, variable in nnx.to_flat_state(nnx.state(made, nnx.Not(KEPT))):
        if isinstance(variable, nnx.Variable) and not isinstance(variable, nnx.RngState):
            name = ".".join(map(str, path))
            raise ValueError(
                f"{type(made).__name__}.{name} is an nnx variable of type {type(variable).__name__}, which "
                "training does not keep: make it an nnx.Param, an nnx.BatchStat or a plain array"
            )
    return made


@dataclass(frozen=True)
class Saved:
    """A loaded model in evaluation mode, its recipe, the figures written with it, and an image's shape."""

    model: nnx.Module
    recipe: Recipe
    figures: dict[str, Any]
    image_shape: tuple[int, int, int] | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images; None if unknown."""
        return self.image_shape and self.image_shape[:2]


def save_model(
    folder: str | os.PathLike[str],
    model: nnx.Module,
    recipe: Recipe,
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    figures: dict[str, Any],
) -> None:
    """Write a model folder; an existing folder is an error and never overwritten.

    Several processes call this together, with the same folder.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(folder)
    kept = nnx.state(model, KEPT)
    if jax.process_count() > 1:  # orbax refuses arrays that only one process has
        kept = on_devices(kept, jax.devices())
    try:
        written = aside / "model-folder"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(written / "model", kept)
        together("weights are written")
        if leads():
            card = {
                "recipe": recipe.to_dict(), "image_shape": list(image_shape), "classes": classes,
                "figures": figures, "digest": _digest(written / "model"),
            }  # fmt: skip
            (written / "recipe.json").write_text(json.dumps(card, indent=1) + "\n")
            written.rename(folder)
        together("the model folder is there")
    finally:
        if leads():
            shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """Return a temporary folder beside a model folder; several processes get the same one."""
    if jax.process_count() == 1:
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    aside = folder.with_name(f".{folder.name}-written-together")
    if leads():
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    together("the temporary folder is there")
    return aside


def load_model(folder: str | os.PathLike[str], *, build: Build | None = None) -> Saved:
    """Rebuild the model of a folder that :func:`save_model` wrote, in evaluation mode.

    Args:
        folder: the model folder.
        build: makes the network, where the recipe's name does not.

    Raises:
        CheckpointError: no such folder, its recipe and weights do not match, or the network is only a part of
            a defended model.
    """
    if (Path(folder) / DEFENSE_CARD).is_file():
        raise CheckpointError(
            f"{folder} holds a defended model ({DEFENSE_CARD}), which may be more than its network: "
            "deepsec_jax.defenses.load gives what answers, training.load_network the network alone"
        )
    return load_network(folder, build=build)


def load_network(folder: str | os.PathLike[str], *, build: Build | None = None) -> Saved:
    """Rebuild the network of a model folder, without a defense around it.

    Arguments and errors as of :func:`load_model`.
    """
    folder = Path(folder).absolute()
    card_file = folder / "recipe.json"
    if not card_file.is_file():
        raise CheckpointError(f"no model in {folder}: give a folder with recipe.json and model/")
    try:
        card = json.loads(card_file.read_text())
        recipe = Recipe.from_dict(card["recipe"])
        height, width, channels = card["image_shape"]
        shape, classes, figures = (height, width, channels), card["classes"], card["figures"]
        digest = card.get("digest")
        model = nnx.eval_shape(lambda: network(recipe, shape, classes, build))
        if jax.tree.leaves(nnx.state(model, nnx.Not(KEPT))):  # these values are not in the folder
            model = network(recipe, shape, classes, build)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{card_file} is damaged ({first_line(error)}): train again or restore a copy"
        ) from None
    if digest is not None and digest != _digest(folder / "model"):
        raise CheckpointError(
            f"the weights in {folder} are damaged (their files changed since they were written): "
            "train again or restore a copy"
        )
    state = nnx.state(model, KEPT)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            nnx.update(model, checkpointer.restore(folder / "model", wanted))
    except Exception as error:  # orbax raises bare Exception for an array file that was cut off
        raise CheckpointError(
            f"the weights in {folder} are damaged or of another network than {recipe.model} "
            f"({first_line(error)}): train again or restore a copy"
        ) from None
    model.eval()
    return Saved(model, recipe, figures, shape)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _digest(folder: Path) -> str:
    """Hash every file's name and content: array files have no checksum, so a flipped bit would be loaded."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for part in (path.relative_to(folder).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()

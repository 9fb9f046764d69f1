"""The base of a defense, and the function that retrains a network with another objective."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from deepsec_jax import models
from deepsec_jax.catalog import lookup
from deepsec_jax.data import Dataset
from deepsec_jax.model_traits import gives_confidences, rejects
from deepsec_jax.protocols import Classifier, Key
from deepsec_jax.randomness import typed_key
from deepsec_jax.training import Recipe, Saved, accuracy, predictions, train
from deepsec_jax.training.checkpoints import Build, load_network, save_model
from deepsec_jax.training.loop import Objective, Score

Changes = tuple[tuple[str, Any], ...]
"""Changes of the base's recipe for a defense's training: (field of Recipe, value) pairs."""


def recipe_changes(value: Any) -> Any:
    """Return changes of a recipe unchanged: a check of a field."""
    known = [field.name for field in fields(Recipe)]
    pairs = isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
    if not pairs or not all(pair[0] in known for pair in value):
        raise ValueError(
            f"must be pairs of a field of Recipe ({', '.join(known)}) and its value, got {value!r}"
        )
    return value


REJECTED = "test_rejected"
"""Name, in the figures of a detector's folder, of the share of clean test images that it rejects."""


class DefenseError(ValueError):
    """A defense that cannot be fitted; one line with the value and the remedy."""


@dataclass(frozen=True)
class Base:
    """The model to defend, and how to train a new one like it.

    Attributes:
        build: ``build(rngs, in_channels)`` makes the untrained network; None if there is only the trained
            model, which does not suffice for a defense that retrains.
        recipe: of the network's training; None like ``build``.
        trained: the undefended classifier.
    """

    build: Build | None
    recipe: Recipe | None
    trained: Classifier


def base_of(saved: Saved, data: Dataset) -> Base:
    """Return the base of a model folder: its network, recipe and weights."""
    make = lookup(models.MODELS, saved.recipe.model, "model")
    return Base(partial(_built, make, data.image_shape[:2], data.classes), saved.recipe, saved.model)


def _built(make: Any, size: tuple[int, int], classes: int, rngs: nnx.Rngs, in_channels: int) -> nnx.Module:
    network: nnx.Module = make((*size, in_channels), classes, rngs=rngs)
    return network


def retrain(
    defense: Any,
    base: Base,
    data: Dataset,
    objective: Objective,
    *,
    key: Key,
    folder: str | os.PathLike[str] | None,
    score: Score = accuracy,
    watch: Mapping[str, Score] | None = None,
    tested: Mapping[str, Score] | None = None,
    in_channels: int | None = None,
    changes: Changes | None = None,
    part: str = "",
) -> Saved:
    """Train a new network of the base with another objective; an interrupted training resumes.

    Args:
        defense: named in messages and in the recipe.
        base: has the network and the recipe.
        data: what to train on.
        objective: loss of one batch, see :data:`deepsec_jax.training.loop.Objective`.
        key: of initial weights, order, held-out part and all other random numbers.
        folder: model folder to write, or None.
        score: selects the epoch that is kept.
        watch: further figures for the history.
        tested: figures of the kept network on the test part; default ``test_accuracy``, on plain images.
        in_channels: channels of the network's input; default those of the images.
        changes: replacements of fields of the base's recipe; default the defense's.
        part: name of the trained network if a defense trains several.

    Raises:
        DefenseError: the base has no network or recipe.
    """
    build, recipe = retrainable(defense, base)
    seed = int(jax.random.key_data(typed_key(key)).ravel()[-1])  # for key(seed) it is the same seed
    changed = replace(changed_recipe(defense, recipe, changes=changes, part=part), seed=seed)
    options: dict[str, Any] = {
        "objective": objective, "score": score, "watch": watch, "tested": tested,
        "in_channels": in_channels,
    }  # fmt: skip
    if changed.model not in models.MODELS:  # the user's own network
        options["build"] = build
    if folder is not None:
        return train(changed, data, folder, **options)
    with tempfile.TemporaryDirectory() as aside:
        return train(changed, data, Path(aside) / "model", **options)


def keep_network(
    base: Base,
    data: Dataset,
    folder: str | os.PathLike[str] | None,
    *,
    answers: Classifier,
    figures: Mapping[str, Any],
    tested: int | None = None,
    batch_size: int = 256,
) -> None:
    """Write the base's trained network into a folder, for a defense that does not train one.

    Args:
        base: made from a model folder, since only such a network can be rebuilt.
        data: data set; ``answers`` is evaluated on its test images.
        folder: model folder to write, or None.
        answers: the defended model, for a detector the guarded one.  ``test_accuracy`` in the folder is its
            accuracy, and ``test_rejected`` the share of images that it rejects, if it can.
        figures: facts of the fit, JSON-ready.
        tested: number of test images, the first ones; default all.
        batch_size: images per call.

    Raises:
        DefenseError: the base's network cannot be rebuilt from a name, or the folder holds another model.
    """
    if folder is None:
        return
    network, recipe = check_keepable(base, folder)
    if Path(folder).exists():
        return
    asked = data.test if tested is None else data.test.take(np.arange(min(tested, len(data.test))))
    found = predictions(answers, asked, batch_size=batch_size)
    refused = {REJECTED: float(np.mean(found == data.classes))} if rejects(answers) else {}
    accuracies = {
        "test_accuracy": float(np.mean(found == asked.labels)),
        "test_images": len(asked),
        **refused,
    }
    save_model(
        folder, network, recipe, image_shape=data.image_shape, classes=data.classes,
        figures={"best_epoch": 0, **figures, **accuracies},
    )  # fmt: skip


def check_keepable(base: Base, folder: str | os.PathLike[str]) -> tuple[nnx.Module, Recipe]:
    """Return what :func:`keep_network` writes; also a check before any work.

    Raises:
        DefenseError: the base's network cannot be rebuilt from a name, or the folder holds another model.
    """
    if base.recipe is None or not isinstance(base.trained, nnx.Module):
        raise DefenseError(
            "this base has no network that a folder could rebuild: fit without folder=, or give a base made "
            "from a folder that deepsec train has written"
        )
    if Path(folder).exists():
        kept, ours = (nnx.state(model, nnx.Param) for model in (load_network(folder).model, base.trained))
        leaves = jax.tree.leaves(kept), jax.tree.leaves(ours)
        if len(leaves[0]) != len(leaves[1]) or not all(map(np.array_equal, *leaves)):
            raise DefenseError(f"{folder} holds another model: choose another folder or remove it")
    return base.trained, base.recipe


def check_confident(defense: Any, base: Base) -> None:
    """Raise DefenseError if the base's model returns votes: their softmax is not a confidence."""
    if not gives_confidences(base.trained):
        raise DefenseError(
            f"{type(defense).__name__} compares confidences, and {type(base.trained).__name__} gives votes: "
            "guard the network behind it"
        )


def changed_recipe(defense: Any, recipe: Recipe, *, changes: Changes | None = None, part: str = "") -> Recipe:
    """Return the recipe of a defense's training; arguments as in :func:`retrain`."""
    name = "-".join(word for word in (type(defense).__name__.lower(), part, recipe.name) if word)
    return replace(recipe, **{"name": name, **dict(defense.changes if changes is None else changes)})


def retrainable(defense: Any, base: Base) -> tuple[Build, Recipe]:
    """Return the base's network and recipe.

    Raises:
        DefenseError: the base has none.
    """
    if base.build is None or base.recipe is None:
        raise DefenseError(
            f"{type(defense).__name__} trains a network anew, and this base is a bare function without one: "
            "give Base(build, recipe, trained), or a folder that deepsec train has written"
        )
    return base.build, base.recipe


def itself(self: Any, classifier: Classifier) -> Classifier:
    """Return the classifier itself, for a defense with an exact gradient."""
    del self
    return classifier

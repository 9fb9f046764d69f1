"""What a defense starts from, and the one way to retrain a network under another objective."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from deepsec_jax import models
from deepsec_jax.catalog import lookup
from deepsec_jax.data import Dataset
from deepsec_jax.protocols import Classifier, Key
from deepsec_jax.pytree import rejects, typed_key
from deepsec_jax.training import Recipe, Saved, accuracy, predictions, train
from deepsec_jax.training.checkpoints import Build, load_network, save_model
from deepsec_jax.training.loop import Objective, Score

Changes = tuple[tuple[str, Any], ...]
"""What a defense's training does otherwise than the base's recipe: (field of Recipe, value) pairs."""


REJECTED = "test_rejected"
"""What the figures of a detector's folder call the share of clean test images that it rejects."""


class DefenseError(ValueError):
    """A defense that cannot be fitted; one line with the value and the remedy."""


@dataclass(frozen=True)
class Base:
    """The model to defend, and how one like it is made anew.

    Attributes:
        build: ``build(rngs, in_channels)`` makes the untrained network; None where there is only the
            trained model, which no defense that retrains can start from.
        recipe: how the network was trained; None as ``build``.
        trained: the undefended classifier.
    """

    build: Build | None
    recipe: Recipe | None
    trained: Classifier


def base_of(saved: Saved, data: Dataset) -> Base:
    """Return the base that a model folder holds: its network by name, its recipe and weights."""
    make = lookup(models.MODELS, saved.recipe.model, "model")
    return Base(partial(_built, make, data.image_shape[:2], data.classes), saved.recipe, saved.model)


def _built(make: Any, size: tuple[int, int], classes: int, rngs: nnx.Rngs, in_channels: int) -> nnx.Module:
    return make((*size, in_channels), classes, rngs=rngs)


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
    """Train a fresh network of the base under another objective; resumes where it was interrupted.

    Args:
        defense: named in messages and in the recipe.
        base: has the network and the recipe.
        data: what to train on.
        objective: loss of one batch, see :data:`deepsec_jax.training.loop.Objective`.
        key: decides initial weights, order, held-out part and all that is drawn.
        folder: model folder to write, or None to keep nothing on disk.
        score: picks the epoch that is kept.
        watch: further figures for the history.
        tested: figures of the kept network on the test part; default ``test_accuracy``, on plain images.
        in_channels: channels that the network sees; default those of the images.
        changes: what replaces fields of the base's recipe; default the defense's.
        part: name of what is trained where a defense trains several networks.

    Raises:
        DefenseError: the base has no network or recipe to start anew.
    """
    build, recipe = retrainable(defense, base)
    seed = int(jax.random.key_data(typed_key(key)).ravel()[-1])  # of key(seed) it is that seed again
    changed = replace(changed_recipe(defense, recipe, changes=changes, part=part), seed=seed)
    options: dict[str, Any] = {
        "objective": objective, "score": score, "watch": watch, "tested": tested,
        "in_channels": in_channels,
    }  # fmt: skip
    if changed.model not in models.MODELS:  # a network of the user's own
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
        base: must have been made from a model folder: only such a network can be rebuilt.
        data: data set, whose test images ``answers`` is asked.
        folder: model folder to write; None keeps nothing.
        answers: the defended model, of a detector the guarded one: ``test_accuracy`` in the folder is of its
            answers, and where it can reject, ``test_rejected`` is the share of images that it rejects.
        figures: facts of the fit, JSON-ready.
        tested: how many test images are asked, the first ones; default all.
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
    """Return what :func:`keep_network` writes; also to ask before work is spent.

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


def changed_recipe(defense: Any, recipe: Recipe, *, changes: Changes | None = None, part: str = "") -> Recipe:
    """Return the recipe that a defense trains by; arguments as in :func:`retrain`."""
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
    """Return the classifier: its gradients are honest, an adaptive attacker differentiates it as it is."""
    del self
    return classifier

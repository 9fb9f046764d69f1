"""Defended models and detectors under test, loaded from folders and checked before any computation."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.model_checks import check_model, check_shapes
from deepsec_jax.data import Dataset
from deepsec_jax.defenses import Defended, base_of, load_defended
from deepsec_jax.defenses.detector import FPR, fitting_and_validation
from deepsec_jax.evaluation.defense_cells import DefendedModel, digest, subject_of
from deepsec_jax.evaluation.detector_jobs import DetectorUnderTest, threshold_of
from deepsec_jax.foreign import library_of
from deepsec_jax.model_traits import classes_of
from deepsec_jax.placement import beside
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import example_keys, reseed, root_key


class UnfitError(ValueError):
    """A model or a detector that cannot be evaluated; one line with the remedy."""


def check_fits(model: Any, dataset: Dataset) -> int:
    """Check a model with the images before any computation: type, mode, shapes, NaN in the weights.

    Returns:
        The number of its classes.

    Raises:
        UnfitError: it cannot be attacked on this data set.
    """
    images, labels = jnp.zeros((2, *dataset.image_shape)), jnp.zeros(2, jnp.int32)
    where = f"the model on images {'x'.join(map(str, dataset.image_shape))}"
    _ours(where, lambda: check_model(model))
    model = _ours(where, lambda: reseed(model, example_keys(root_key(0), 2)))
    remedy = "" if library_of(model) != "Equinox" else IMAGE_BY_IMAGE
    _ours(where, lambda: jax.eval_shape(partial(check_shapes, model), images, labels), remedy)
    for leaf in map(jnp.asarray, jax.tree.leaves(model)):  # for example a wrapper's factor
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all()):
            raise UnfitError("the model has NaN or infinite weights: train it again or load another one")
    classes = classes_of(model, images)
    for half, split in (("train", dataset.train), ("test", dataset.test)):
        if not len(split):
            continue
        low, high = int(np.min(split.labels)), int(np.max(split.labels))
        if low < 0 or high >= classes:
            raise UnfitError(
                f"{half} labels range over {low} .. {high}, but the model has classes 0 .. {classes - 1}: "
                "name the data set it was trained on with --data"
            )
    return classes


IMAGE_BY_IMAGE = (
    ": Equinox's layers take one image, channels first: return deepsec_jax.models.from_equinox(module, "
    "channels_first=True)"
)


def _ours(where: str, check: Callable[[], Any], remedy: str = "") -> Any:
    """Return the result of a library check, with ValueError and TypeError as UnfitError."""
    try:
        return check()
    except (ValueError, TypeError) as error:
        message = str(error).strip().partition("\n")[0]
        raise UnfitError(f"{where}: {message}{remedy}") from None


def defended_model(
    folder: str, base: str, dataset: Dataset, *, like: Classifier | None = None
) -> DefendedModel:
    """Return the defended model of a folder.

    Args:
        folder: written by ``deepsec defend``.
        base: name of the undefended model.
        dataset: of the evaluation.
        like: a model on the devices that the defended one is copied to; default one device.

    Raises:
        UnfitError: made from another model or other images, or it cannot be attacked on this set.
        DefenseError: not a defended model, or a damaged one.
    """
    defended = load_defended(folder)
    _check_card(folder, defended, "fit the defense again")
    if defended.card["base"] != base:
        raise UnfitError(
            f"{folder} defends {defended.card['base']}, not {base}: give the model that it was made "
            "from, or defend this one"
        )
    trained_on = defended.saved.figures.get("trained_on", {}).get("data")
    if trained_on not in (None, dataset.digest()):
        raise UnfitError(
            f"{folder} was trained on other images than {dataset.name} has: name its set with --data, or "
            "defend the model on this one"
        )
    try:
        for model in (defended.classifier, defended.surrogate):
            check_fits(model, dataset)
    except UnfitError as error:
        raise UnfitError(f"{folder}: {error}") from None
    found = subject_of(defended, Path(folder).resolve().name)
    classifier = beside(found.classifier, like)
    own = found.surrogate is found.classifier
    return replace(
        found, classifier=classifier, surrogate=classifier if own else beside(found.surrogate, like)
    )


_OF_THE_NETWORK = (
    "trained_on", "history", "best_epoch", "validation", "test_accuracy", "test_images", "detector",
    "threshold", "clean_images", "threshold_images",
)  # fmt: skip
"""Figures of a folder that are not about the fit, or that tables show elsewhere."""


def detector_under_test(folder: str, base: str, model: Classifier, dataset: Dataset) -> DetectorUnderTest:
    """Return the fitted detector of a folder.

    Args:
        folder: of a detector, written by ``deepsec defend``.
        base: name of the model that it guards.
        model: that model.
        dataset: of the evaluation.

    Raises:
        UnfitError: made from another model, not a detector, or unable to score this set.
        DefenseError: not a defended model, or a damaged one.
    """
    defended = load_defended(folder)
    card, detector = defended.card, defended.detector
    if detector is None:
        raise UnfitError(
            f"{folder} holds {card.get('name', 'a defense')}, which is no detector: give it to deepsec "
            "evaluate defenses"
        )
    _check_card(folder, defended, "fit the detector again")
    if card["base"] != base or digest(defended.saved.model) != digest(model):
        raise UnfitError(
            f"{folder} guards {card['base']} as it was then, not {base}: give the model that "
            "it was fitted to, or fit one to this model"
        )
    threshold_of(detector)
    _check_scores(folder, detector, dataset)
    figures = defended.saved.figures
    images = figures.get("threshold_images", figures.get("clean_images"))
    if images is None:
        images = len(fitting_and_validation(base_of(defended.saved, dataset), dataset)[1])
    about = {name: card[name] for name in ("name", "preset", "class", "settings", "versions", "base")}
    noted = {name: value for name, value in figures.items() if name not in _OF_THE_NETWORK}
    rate = float(card["settings"].get("fpr", FPR))
    detector = beside(detector, model)
    return DetectorUnderTest(about, detector, rate, int(images), Path(folder).resolve().name, noted)


def _check_card(folder: str, defended: Defended, remedy: str) -> None:
    lacking = [name for name in ("name", "preset", "base") if not defended.card.get(name)]
    if lacking:
        raise UnfitError(f"{folder}/defense.json lacks {', '.join(lacking)}: {remedy}")


def _check_scores(folder: str, detector: Any, dataset: Dataset) -> None:
    """Raise UnfitError unless the detector returns one score per image of a data set."""
    images = jax.ShapeDtypeStruct((2, *dataset.image_shape), jnp.float32)
    try:
        shape = jax.eval_shape(lambda fitted, x: fitted.score(x), detector, images).shape
    except (ValueError, TypeError) as error:
        message = str(error).strip().partition("\n")[0]
        raise UnfitError(f"{folder} does not score images of {dataset.name}: {message}") from None
    if shape != (2,):
        raise UnfitError(
            f"{folder} gives scores of shape {list(shape)} for 2 images: one per image is wanted"
        )

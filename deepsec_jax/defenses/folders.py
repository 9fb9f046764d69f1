"""A defended model's folder: the model folder that training wrote, and ``defense.json`` beside the recipe.

The card says which defense with which hyperparameters it is, so that the classifier and what an adaptive
attacker differentiates can be rebuilt from the folder alone.  :func:`load` takes any model folder and gives
what answers: the network, or the defended model around it.
"""

import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deepsec_jax.catalog import lookup, versions
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import REJECTED, Base, DefenseError
from deepsec_jax.defenses.detector import FittedDetector
from deepsec_jax.defenses.table import DEFENSES, DETECTORS
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.protocols import Classifier, Defense, Detector, Key
from deepsec_jax.training import Saved, load_network
from deepsec_jax.training.checkpoints import DEFENSE_CARD

CARD = DEFENSE_CARD


@dataclass(frozen=True)
class Defended:
    """A defended model as it lies in its folder.

    Attributes:
        classifier: the defended model, in evaluation mode; of a detector the guarded one.
        surrogate: what an adaptive attacker differentiates; of a detector the model guarded by its surrogate.
        defense: the defense with its hyperparameters.
        card: ``name`` of the preset row, ``preset`` kind, ``base`` model, ``class``, ``settings``, ``seed``,
            and ``versions`` of the code that answers now.
        saved: recipe and figures of the training; of a detector those of the network that it guards.
        detector: the fitted detector; None of a complete defense.
    """

    classifier: Classifier
    surrogate: Classifier
    defense: Any
    card: dict[str, Any]
    saved: Saved
    detector: FittedDetector | None = None


@dataclass(frozen=True)
class ModelFolder:
    """What lies in a model folder.

    Attributes:
        model: what answers, in evaluation mode: the network, or the defended model; a detector's is guarded,
            with one logit more that says "rejected".
        saved: the network alone, its recipe, and the figures written with it.
        defended: the defended model with its card and surrogate; None of a folder without ``defense.json``.
    """

    model: Classifier
    saved: Saved
    defended: Defended | None = None

    @property
    def is_network(self) -> bool:
        """Whether the network is all there is: undefended, or its training was the defense."""
        return self.model is self.saved.model

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy of ``model`` on clean test images, in [0, 1]; None where the folder does not say.

        Folders of detectors by version 0.1 had that of the network without the detector.
        """
        figures, defended = self.saved.figures, self.defended
        if defended is not None and defended.detector is not None and REJECTED not in figures:
            return None
        value = figures.get("test_accuracy")
        return None if value is None else float(value)


def load(folder: str | os.PathLike[str]) -> ModelFolder:
    """Return the model of any folder: a trained network, or the defended model where ``defense.json`` lies.

    Raises:
        CheckpointError: no model in the folder, or a damaged one.
        DefenseError: a defense that is damaged, or whose fit was not finished.
    """
    folder = Path(folder)
    if (folder / CARD).is_file():
        defended = load_defended(folder)
        return ModelFolder(defended.classifier, defended.saved, defended)
    if (note := _unfinished(folder)).is_file() and folder.is_dir():
        raise DefenseError(
            f"{folder} holds a network whose defense was not fitted to the end: the command that began it "
            f"goes on, or remove the folder and {note.name}"
        )
    saved = load_network(folder)
    return ModelFolder(saved.model, saved)


def fit_into(
    folder: str | os.PathLike[str],
    defense: Defense | Detector,
    base: Base,
    data: Dataset,
    *,
    key: Key,
    card: dict[str, Any],
) -> Defended:
    """Fit a defense or detector into a folder, or go on where it was interrupted; a finished one is loaded.

    Args:
        folder: model folder to write.
        defense: what to fit; its ``fit`` keeps in the folder what its ``restore`` reads.
        base: what to defend.
        data: data set.
        key: decides all that is drawn.
        card: ``name``, ``preset`` and ``base``, for tables.

    Raises:
        DefenseError: the folder holds another defense.
        CheckpointError: the folder holds another training.
    """
    folder = Path(folder)
    about = {
        "class": type(defense).__name__, "settings": settings_of(defense), "versions": versions(defense)
    }  # fmt: skip
    whole, path = card | about, folder / CARD
    first = {"versions": dict.fromkeys(about["versions"], 1)}  # of folders that do not say
    if path.is_file() and (there := first | _read(path)) != whole:
        differing = sorted(name for name in whole if there.get(name) != whole[name])
        raise DefenseError(
            f"{folder} holds another defense (it differs in {', '.join(differing) or 'its card'}): "
            "choose another folder or remove it"
        )
    note = _unfinished(folder)
    if not folder.exists():  # until the card lies in it, the folder must not pass for a network's
        folder.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(whole, indent=1) + "\n")
    try:
        defense.fit(base, data, key=key, folder=folder)
    except Exception:
        if not folder.exists():
            note.unlink(missing_ok=True)
        raise
    if not path.is_file():  # after the model, so that a folder with a card is complete
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(whole, indent=1) + "\n")
        aside.rename(path)
    note.unlink(missing_ok=True)
    return load_defended(folder)


def _unfinished(folder: Path) -> Path:
    """Return where a fit into a folder is noted until it is done."""
    return folder.with_name(f"{folder.name}.fitting.json")


def load_defended(folder: str | os.PathLike[str]) -> Defended:
    """Return the defended model of a folder.

    Raises:
        DefenseError: no defended model, or its card is damaged.
        CheckpointError: its weights are.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise DefenseError(f"no defended model in {folder}: give a folder that deepsec defend has written")
    card = _read(folder / CARD)
    try:
        kind = lookup({defense.__name__: defense for defense in DEFENSES.values()}, card["class"], "defense")
        defense = kind(**{name: _tuples(value) for name, value in card["settings"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder / CARD, error) from None
    card["versions"] = versions(defense)  # what its fit was shows in the weights
    saved = load_network(folder)
    if kind in DETECTORS.values():
        return _guarded(defense, card, saved, folder)
    # A defense that is more than a network says how it is rebuilt around the one in the folder.
    classifier = defense.restore(saved, folder) if hasattr(defense, "restore") else saved.model
    return Defended(classifier, defense.surrogate(classifier), defense, card, saved)


def _guarded(defense: Any, card: dict[str, Any], saved: Saved, folder: Path) -> Defended:
    """Return the network of a folder, or what a detector makes of it, behind the detector that lies there."""
    detector: FittedDetector = defense.restore(saved, folder)
    for fitted in (detector, surrogate := defense.surrogate(detector)):
        if not math.isfinite(fitted.threshold):
            raise DefenseError(f"the detector in {folder} has no threshold: fit it again")
    network = defense.behind(detector, saved.model) if hasattr(defense, "behind") else saved.model
    return Defended(Guarded(network, detector), Guarded(network, surrogate), defense, card, saved, detector)


def settings_of(defense: Any) -> dict[str, Any]:
    """Return field -> JSON-ready value of a defense."""
    return {field.name: _lists(getattr(defense, field.name)) for field in fields(defense)}


def _lists(value: Any) -> Any:
    return [_lists(part) for part in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(card, dict):
        raise _damaged(path, TypeError("no JSON object"))
    return card


def _damaged(path: Path, error: Exception) -> DefenseError:
    return DefenseError(f"{path} is damaged ({' '.join(str(error).split())}): fit the defense again")

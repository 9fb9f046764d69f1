"""The folder of a defended model: the model folder of its training, and ``defense.json``.

The card has the defense and its hyperparameters, so the classifier and its surrogate can be rebuilt from the
folder.  :func:`load` takes any model folder and returns the network, or the defended model around it.
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
from deepsec_jax.placement import leads, together
from deepsec_jax.protocols import Classifier, Defense, Detector, Key
from deepsec_jax.training import Saved, load_network
from deepsec_jax.training.checkpoints import DEFENSE_CARD

CARD = DEFENSE_CARD


@dataclass(frozen=True)
class Defended:
    """A defended model loaded from its folder.

    Attributes:
        classifier: the defended model, in evaluation mode; for a detector the guarded one.
        surrogate: the model that an adaptive attacker differentiates; for a detector the model guarded by its
            surrogate.
        defense: the defense with its hyperparameters.
        card: ``name`` of the preset row, ``preset`` kind, ``base`` model, ``class``, ``settings``, ``seed``,
            and the current ``versions`` of the code.
        saved: recipe and figures of the training; for a detector those of the guarded network.
        detector: the fitted detector; None for a complete defense.
    """

    classifier: Classifier
    surrogate: Classifier
    defense: Any
    card: dict[str, Any]
    saved: Saved
    detector: FittedDetector | None = None


@dataclass(frozen=True)
class ModelFolder:
    """The contents of a model folder.

    Attributes:
        model: the network or the defended model, in evaluation mode; with a detector the guarded model, whose
            additional last logit means "rejected".
        saved: the network without a defense, its recipe and figures.
        defended: the defended model with its card and surrogate; None without ``defense.json``.
    """

    model: Classifier
    saved: Saved
    defended: Defended | None = None

    @property
    def is_network(self) -> bool:
        """Whether the model is only the network: undefended, or defended by its training."""
        return self.model is self.saved.model

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy of ``model`` on clean test images, in [0, 1]; None if the folder has none.

        Folders of detectors of version 0.1 have the accuracy of the network without the detector.
        """
        figures, defended = self.saved.figures, self.defended
        if defended is not None and defended.detector is not None and REJECTED not in figures:
            return None
        value = figures.get("test_accuracy")
        return None if value is None else float(value)


def load(folder: str | os.PathLike[str]) -> ModelFolder:
    """Return the model of any folder: a network, or the defended model if there is a ``defense.json``.

    Raises:
        CheckpointError: no model in the folder, or a damaged one.
        DefenseError: the defense is damaged, or its fit was not finished.
    """
    folder = Path(folder)
    if (folder / CARD).is_file():
        defended = load_defended(folder)
        return ModelFolder(defended.classifier, defended.saved, defended)
    if (note := _unfinished(folder)).is_file() and folder.is_dir():
        raise DefenseError(
            f"{folder} holds a network whose defense was not fitted to the end: run its command again, or "
            f"remove the folder and {note.name}"
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
    """Fit a defense or detector into a folder, or resume an interrupted fit; a finished one is loaded.

    The processes of ``jax.distributed`` call this together, with a folder that all of them see.

    Args:
        folder: model folder to write.
        defense: to fit; its ``fit`` writes to the folder what its ``restore`` reads.
        base: to defend.
        data: data set.
        key: of all random numbers.
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
    first = {"versions": dict.fromkeys(about["versions"], 1)}  # for folders without a version
    if path.is_file() and (there := first | _read(path)) != whole:
        differing = sorted(name for name in whole if there.get(name) != whole[name])
        raise DefenseError(
            f"{folder} holds another defense (it differs in {', '.join(differing) or 'its card'}): "
            "choose another folder or remove it"
        )
    note = _unfinished(folder)
    together("the folder was looked at")  # by all processes, before one of them writes
    if leads() and not folder.exists():  # without its card the folder must not be taken for a network's
        folder.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(whole, indent=1) + "\n")
    try:
        defense.fit(base, data, key=key, folder=folder)
    except Exception:
        if leads() and not folder.exists():
            note.unlink(missing_ok=True)
        raise
    together("the defense is fitted")
    if leads():
        if not path.is_file():  # written after the model, so a folder with a card is complete
            aside = path.with_suffix(".tmp")
            aside.write_text(json.dumps(whole, indent=1) + "\n")
            aside.rename(path)
        note.unlink(missing_ok=True)
    together("the defense has its card")
    return load_defended(folder)


def _unfinished(folder: Path) -> Path:
    """Return the path of the note that marks an unfinished fit."""
    return folder.with_name(f"{folder.name}.fitting.json")


def load_defended(folder: str | os.PathLike[str]) -> Defended:
    """Return the defended model of a folder.

    Raises:
        DefenseError: not a defended model, or its card is damaged.
        CheckpointError: its weights are damaged.
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
    # A defense that is more than a network rebuilds itself around the network of the folder.
    classifier = defense.restore(saved, folder) if hasattr(defense, "restore") else saved.model
    return Defended(classifier, defense.surrogate(classifier), defense, card, saved)


def _guarded(defense: Any, card: dict[str, Any], saved: Saved, folder: Path) -> Defended:
    """Return the network of a folder guarded by its detector; the detector may replace the network."""
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

"""A cell: one attack on a model, or one question to a defense, as it lies in a run directory.

RUN/cells/NAME/config.json        what decides the result; NAME ends in its digest
RUN/cells/NAME/environment.json   versions, device, batch size, times: what does not
RUN/cells/NAME/arrays.npz         images and what the model says of them
RUN/columns/NAME/COLUMN.npy       values of one column, float64 [N]
RUN/failed/NAME/*.json            errors of attempts that failed
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ATTACK, UTILITY, ROBUSTNESS, SIGHT = "attack", "utility", "robustness", "sight"
"""Kinds of cells: an attack on candidates; a defense on clean test images; a defense under attack; what a
defense makes of a few images."""

CLEAN, DETECTION, SWEEP = "clean", "detection", "sweep"
"""Kinds of cells of a detector: its scores of all clean test images; of one attack's images; of FGSM's at one
radius."""

ARRAYS: dict[str, tuple[str, ...]] = {
    ATTACK: (
        "x_adv", "x", "labels", "targets", "rows", "success", "predicted", "confidence", "probabilities",
    ),
    UTILITY: (
        "labels", "logits_raw", "logits", "probabilities_raw", "probabilities", "correct_raw", "correct",
    ),
    ROBUSTNESS: (
        "x_adv", "x", "labels", "rows", "clean", "correct", "predicted", "confidence", "probabilities",
    ),
    SIGHT: (
        "x_adv", "x", "labels", "rows", "seen", "seen_adv",
        "predicted_raw", "predicted_raw_adv", "predicted", "predicted_adv",
        "probabilities_raw", "probabilities_raw_adv", "probabilities", "probabilities_adv",
    ),
    CLEAN: ("scores", "labels", "correct"),
    DETECTION: ("scores", "success", "rows"),
    SWEEP: ("scores", "success", "rows"),
}  # fmt: skip
"""Kind -> arrays.  x_adv, x: float32 [N, H, W, C]; labels, targets (-1: none), rows of the test split: int32
[N]; success (the goal is reached on x_adv and was not on x), correct (on x_adv, or on clean images without
one), clean (correct on x), each a share of draws: float32 [N]; predicted: class of x_adv in most draws (of a
success, of those that succeeded), K for "rejected" and -1 for no answer, int32 [N]; its confidence, a mean
over these draws, NaN of a model without confidences: float32 [N]; scores of a detector: float32 [N]; logits,
probabilities (on x_adv where there is one; NaN of a model without confidences): float32 [N, K].  Where the
model can reject, correct on x_adv counts what is rejected, and logits are [N, K+1].  Of a sight, seen and
seen_adv: what the network sees of x and x_adv, float32 [N, any height, any width, C]; predicted and
probabilities on x, and with _adv on x_adv."""

VERSIONS: dict[str, int] = {
    ATTACK: 2, UTILITY: 2, ROBUSTNESS: 2, SIGHT: 2, CLEAN: 2, DETECTION: 2, SWEEP: 2
}  # fmt: skip
"""Kind -> version of what its arrays and columns mean; ``version`` in the config, 1 where it says none.

Raise it with every change of meaning: then no figure of an earlier version is taken for one of today.  Since
2 an attack has no success where the goal is reached before it, ACAC, ACTC and NTE are over the draws that
succeeded, and a model of votes has no probabilities."""

NO_ANSWER: dict[str, tuple[str, ...]] = {
    ATTACK: ("no_answer",), UTILITY: ("no_answer_raw", "no_answer"),
    ROBUSTNESS: ("no_answer", "clean_no_answer"),
    CLEAN: ("no_answer",), DETECTION: ("no_answer",), SWEEP: ("no_answer",),
}  # fmt: skip
"""Kind -> further arrays: share of draws in which the model gives no answer (NaN or +inf), neither right nor
fooled, float32 [N], on x_adv, or on clean images where there is none or the name says so.  Cells of earlier
versions lack them."""

REJECTION: dict[str, tuple[str, ...]] = {UTILITY: ("rejected",), ROBUSTNESS: ("rejected", "clean_rejected")}
"""Kind -> further arrays of a model that can reject, each a share of draws, float32 [N]: rejected (x_adv, or
the clean image without one), clean_rejected (x)."""


@dataclass(frozen=True)
class Cell:
    """A cell as it was read from its folder, or one that failed.

    Attributes:
        name: folder name.
        config: ``data``, ``model`` (``name``; of a model folder also ``network``, ``recipe``,
            ``test_accuracy``), ``version``, and what its kind has. An attack (no ``kind``): ``attack``
            (``name`` of the preset row, ``class``, ``preset`` kind, ``hyperparameters``), ``n``, ``seed``,
            ``candidates``.
            The kinds of defenses: see :mod:`deepsec_jax.evaluation.defense_cells`; of detectors:
            :mod:`deepsec_jax.evaluation.detection_cells`.
        environment: ``versions``, ``device``, ``batch_size``, ``class_names``, ``seconds``,
            ``compile_seconds``, ``gradients``, ``started``, ``finished``, ``findings`` (what a look at the
            model has found before its first attack); of an attack also ``gradient_seconds``, ``forwards``,
            ``confidences``; of a defense also ``folder``, ``confidences``, ``training``.
        arrays: name -> array, the names of :data:`ARRAYS`, of :data:`NO_ANSWER`, and of :data:`REJECTION`
            where it can reject; empty if it failed.
        columns: metric column -> values [N].
        error: one line, or None.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    error: str | None = None

    @property
    def kind(self) -> str:
        """Which of :data:`ARRAYS` it has."""
        return kind_of(self.config)


def kind_of(config: Mapping[str, Any]) -> str:
    """Return a config's kind; one without is an attack."""
    return str(config.get("kind", ATTACK))


def is_current(config: Mapping[str, Any]) -> bool:
    """Tell whether a config's cell means what cells of its kind mean today, see :data:`VERSIONS`.

    Raises:
        LookupError: there is no such kind.
    """
    return int(config.get("version", 1)) == VERSIONS[kind_of(config)]


def words_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a cell is about, in the words that its folder's name begins with.

    Raises:
        LookupError: the config lacks one of them, or is of no known kind.
    """
    where = (config["model"]["name"], config["data"])
    if kind_of(config) == ATTACK:
        attack = config["attack"]
        return (attack["name"], attack["preset"], *where, f"s{config['seed']}")
    if kind_of(config) == UTILITY:
        return (config["defense"]["name"], config["defense"]["preset"], UTILITY, *where)
    if kind_of(config) == SIGHT:
        return (config["defense"]["name"], config["defense"]["preset"], SIGHT, *where, f"s{config['seed']}")
    if kind_of(config) in (CLEAN, DETECTION, SWEEP):
        detector = config["detector"]
        return (detector["name"], detector["preset"], kind_of(config), *_attack_words(config), *where)
    if kind_of(config) == ROBUSTNESS:
        defense = config.get("defense")
        about = (defense["name"], defense["preset"]) if defense else ()
        return (*about, config["access"], *where, f"s{config['seed']}")
    raise LookupError(f"unknown kind of cell {config['kind']!r}")


def _attack_words(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the attack whose images a detector scored; nothing for clean images."""
    if kind_of(config) == CLEAN:
        return ()
    name = str(config["attack"]["name"])
    return (name, f"s{config['seed']}") if kind_of(config) == DETECTION else (f"{name}@{config['eps']:g}",)


def short_name(config: Mapping[str, Any]) -> str:
    """Return what a cell is about in a word or two, for progress and warnings."""
    if kind_of(config) == ATTACK:
        return str(config["attack"]["name"])
    if kind_of(config) in (CLEAN, DETECTION, SWEEP):
        return " ".join((config["detector"]["name"], *(_attack_words(config)[:1] or (CLEAN,))))
    words = (config["defense"]["name"],) if "defense" in config else ()
    asked = config.get("access", kind_of(config))
    return " ".join((*words, str(asked).replace("_", "-")))

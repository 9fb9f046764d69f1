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

ATTACK, UTILITY, ROBUSTNESS = "attack", "utility", "robustness"
"""Kinds of cells: an attack on candidates; a defense on all clean test images; a defense under attack."""

ARRAYS: dict[str, tuple[str, ...]] = {
    ATTACK: ("x_adv", "x", "labels", "targets", "rows", "success", "probabilities"),
    UTILITY: (
        "labels", "logits_raw", "logits", "probabilities_raw", "probabilities", "correct_raw", "correct",
    ),
    ROBUSTNESS: ("x_adv", "x", "labels", "rows", "clean", "correct", "probabilities"),
}  # fmt: skip
"""Kind -> arrays.  x_adv, x: float32 [N, H, W, C]; labels, targets (-1: none), rows of the test split: int32
[N]; success, correct (on x_adv, or on clean images without one), clean (correct on x), each a share of
draws: float32 [N]; logits, probabilities (on x_adv where there is one): float32 [N, K]."""


@dataclass(frozen=True)
class Cell:
    """A cell as it was read from its folder, or one that failed.

    Attributes:
        name: folder name.
        config: ``data``, ``model`` (``name``; of a model folder also ``network``, ``recipe``,
            ``test_accuracy``), and what its kind has. An attack (no ``kind``): ``attack`` (``name`` of the
            preset row, ``class``, ``preset`` kind, ``hyperparameters``), ``n``, ``seed``, ``candidates``.
            The kinds of defenses: see :mod:`deepsec_jax.evaluation.defense_cells`.
        environment: ``versions``, ``device``, ``batch_size``, ``class_names``, ``seconds``,
            ``compile_seconds``, ``gradients``, ``started``, ``finished``; of an attack also
            ``gradient_seconds``, ``forwards``; of a defense also ``folder``, ``confidences``, ``training``.
        arrays: name -> array, the names of :data:`ARRAYS`; empty if it failed.
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
    if kind_of(config) == ROBUSTNESS:
        defense = config.get("defense")
        about = (defense["name"], defense["preset"]) if defense else ()
        return (*about, config["access"], *where, f"s{config['seed']}")
    raise LookupError(f"unknown kind of cell {config['kind']!r}")


def short_name(config: Mapping[str, Any]) -> str:
    """Return what a cell is about in a word or two, for progress and warnings."""
    if kind_of(config) == ATTACK:
        return str(config["attack"]["name"])
    words = (config["defense"]["name"],) if "defense" in config else ()
    return " ".join((*words, str(config.get("access", UTILITY)).replace("_", "-")))

"""A cell: one attack on a model, or one measurement of a defense, in a run directory.

RUN/cells/NAME/config.json        settings that determine the result; NAME ends in their hash
RUN/cells/NAME/environment.json   versions, device, batch size, times
RUN/cells/NAME/arrays.npz         images and the model's outputs
RUN/columns/NAME/COLUMN.npy       values of one column, float64 [N]; COLUMN.v2.npy in its second version
RUN/failed/NAME/*.json            errors of attempts that failed
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ATTACK, UTILITY, ROBUSTNESS, MODEL_INPUTS = "attack", "utility", "robustness", "model_inputs"
"""Kinds of cells: an attack on candidates; a defense on clean test images; a defense under attack; the
network inputs of a few images."""

CLEAN, DETECTION, SWEEP = "clean", "detection", "sweep"
"""Kinds of cells of a detector: its scores of all clean test images; of one attack's images; of FGSM's at one
radius."""

SECURITY = "security"
"""Kind of the cells of one attack on one defended model, with one kind of knowledge."""

TRANSFER = "transfer"
"""Kind of the cells of one attack's images, judged on another model."""

MEMBER, DRAWN, WHOLE = "member", "drawn", "whole"
"""Kinds of cells of ensembles: a member's answers to images; the members of one; an attack on a whole one."""

Config = Mapping[str, Any]
"""Plain values that determine a cell."""


@dataclass(frozen=True)
class CellKind:
    """What cells of a kind hold, and what they are called.

    Attributes:
        arrays: names of what each has, see :data:`KINDS`.
        words: config -> the words at the beginning of the folder's name.
        short: config -> one or two words, for progress and warnings.
        optional: names of arrays that exist if the model can reject, or gives no answer.
        version: of the meaning of arrays and columns; ``version`` in a config, 1 if it is missing.  Increase
            it with every change of meaning, so that no result of an earlier version is reused.
    """

    arrays: tuple[str, ...]
    words: Callable[[Config], tuple[str, ...]]
    short: Callable[[Config], str]
    optional: tuple[str, ...] = ()
    version: int = 2


def _where(config: Config) -> tuple[str, ...]:
    return (config["model"]["name"], config["data"])


def _seed(config: Config) -> str:
    return f"s{config['seed']}"


def _preset(about: Config) -> tuple[str, ...]:
    """Return the preset row and kind of an attack, a defense or a detector."""
    return (about["name"], about["preset"])


def _defense(config: Config) -> tuple[str, ...]:
    return _preset(config["defense"]) if "defense" in config else ()


def _defended(config: Config, asked: str) -> str:
    return " ".join((*_defense(config)[:1], asked.replace("_", "-")))


def _swept(config: Config) -> str:
    return f"{config['attack']['name']}@{config['eps']:g}"


_PICTURES = ("x_adv", "x", "labels", "rows")
_FOUND = ("predicted", "confidence", "probabilities")

KINDS: dict[str, CellKind] = {
    ATTACK: CellKind(
        ("x_adv", "x", "labels", "targets", "rows", "success", *_FOUND),
        lambda config: (*_preset(config["attack"]), *_where(config), _seed(config)),
        lambda config: str(config["attack"]["name"]),
        optional=("no_answer",),
    ),
    UTILITY: CellKind(
        ("labels", "logits_raw", "logits", "probabilities_raw", "probabilities", "correct_raw", "correct"),
        lambda config: (*_preset(config["defense"]), UTILITY, *_where(config)),
        lambda config: _defended(config, UTILITY),
        optional=("no_answer_raw", "no_answer", "rejected"),
    ),
    ROBUSTNESS: CellKind(
        (*_PICTURES, "clean", "right_or_rejected", *_FOUND),
        lambda config: (*_defense(config), config["knowledge"], *_where(config), _seed(config)),
        lambda config: _defended(config, str(config["knowledge"])),
        optional=("no_answer", "clean_no_answer", "rejected", "clean_rejected"), version=5,
    ),
    MODEL_INPUTS: CellKind(
        (
            *_PICTURES, "seen", "seen_adv",
            "predicted_raw", "predicted_raw_adv", "predicted", "predicted_adv",
            "probabilities_raw", "probabilities_raw_adv", "probabilities", "probabilities_adv",
        ),
        lambda config: (*_preset(config["defense"]), MODEL_INPUTS, *_where(config), _seed(config)),
        lambda config: _defended(config, MODEL_INPUTS),
    ),
    CLEAN: CellKind(
        ("scores", "labels", "correct"),
        lambda config: (*_preset(config["detector"]), CLEAN, *_where(config)),
        lambda config: f"{config['detector']['name']} {CLEAN}",
        optional=("no_answer",),
    ),
    DETECTION: CellKind(
        ("scores", "success", "rows"),
        lambda config: (
            *_preset(config["detector"]), DETECTION, config["attack"]["name"], _seed(config), *_where(config),
        ),
        lambda config: f"{config['detector']['name']} {config['attack']['name']}",
        optional=("no_answer",),
    ),
    SWEEP: CellKind(
        ("scores", "success", "rows"),
        lambda config: (*_preset(config["detector"]), SWEEP, _swept(config), *_where(config)),
        lambda config: f"{config['detector']['name']} {_swept(config)}",
        optional=("no_answer",),
    ),
    SECURITY: CellKind(
        (
            "labels", "rows", "targets", "success", "clean", "right_or_rejected", "rejected", "predicted",
            "no_answer", "l0", "l1", "l2", "linf",
        ),
        lambda config: (
            *_defense(config), config["knowledge"], *_preset(config["attack"]), *_where(config), _seed(config)
        ),
        lambda config: _defended(config, f"{config['knowledge']} {config['attack']['name']}"),
        optional=("x_adv", "right_or_rejected_8bit"), version=3,
    ),
    TRANSFER: CellKind(
        ("labels", "targets", "success", "clean", "reached", "wrong", "predicted", "confidence", "no_answer"),
        lambda config: (
            TRANSFER, *_preset(config["attack"]), *_where(config), config["target"]["name"], _seed(config)
        ),
        lambda config: f"{config['attack']['name']} on {config['target']['name']}",
        version=1,
    ),
    MEMBER: CellKind(
        ("labels", "probabilities"),
        lambda config: (
            MEMBER, *_defense(config), config["attack"]["name"], config["access"], *_where(config),
            _seed(config),
        ),
        lambda config: _defended(config, f"{config['attack']['name']} of {config['access']}"),
        version=1,
    ),
    DRAWN: CellKind(
        ("labels",),
        lambda config: (
            DRAWN, config["ensemble"]["kind"], str(config["ensemble"]["number"]), *_where(config),
            _seed(config),
        ),
        lambda config: f"{config['ensemble']['kind']} ensemble {config['ensemble']['number']}",
        version=1,
    ),
    WHOLE: CellKind(
        ("labels", "probabilities", "x_adv", "l0", "l1", "l2", "linf"),
        lambda config: (
            WHOLE, *(member["defense"]["name"] for member in config["members"]), config["access"],
            *_preset(config["attack"]), *_where(config), _seed(config),
        ),
        lambda config: f"{config['attack']['name']} {config['access']} of "
        f"{'+'.join(member['defense']['name'] for member in config['members'])}",
        version=1,
    ),
}  # fmt: skip
"""Every kind of cell by name, with its arrays.  N images, K classes.

    x, x_adv            clean and adversarial images, float32 [N, H, W, C]
    labels, targets     true and target classes (-1: untargeted), int32 [N]
    rows                indices into the test split, int32 [N]
    predicted           most frequent class of x_adv, over the draws that succeeded for a success; K means
                        "rejected", -1 no answer, int32 [N]
    confidence          its mean probability over these draws, float32 [N]
    logits              [N, K], or [N, K+1] of a model that can reject
    probabilities       of x_adv if there is one, [N, K]; of a member in each draw, [N, D, K]; of a whole
                        ensemble those of each member, [N, M, D, K]
    scores              of a detector, float32 [N]
    seen, seen_adv      network inputs for x and x_adv, float32 [N, any height, any width, C];
                        predicted and probabilities are then of x, and with _adv of x_adv
    right_or_rejected_8bit  of security, not of replayed images: of x_adv rounded to 8 bits
    l0, l1, l2, linf    of security: norms of the change; l0 is the share of changed entries

Shares of draws, float32 [N], are 0 or 1 on a deterministic model:

    success             the goal is reached on x_adv and not on x
    correct             on clean images
    reached             of a transfer: like success, on the model of the cell instead of the attacked one
    wrong               of a transfer: any wrong class of x_adv
    clean               correct on x
    right_or_rejected   on x_adv
    rejected, no_answer (NaN or +inf) of x_adv, or of the clean image without one or by the name

``confidence`` and ``probabilities`` are NaN for a model without confidences.

Version 2: an attack has no success if the clean image reaches the goal; ACAC, ACTC and NTE are over the draws
that succeeded; a model of votes has no probabilities.  Version 3: ``right_or_rejected`` replaces the name
``correct``.  Version 4: the adaptive attack is APGD.
"""


_OWN = CellKind(
    (),
    lambda config: (str(config["kind"]), str(config["row"]), *_where(config)),
    lambda config: f"{config['kind']} {config['row']}",
    version=0,
)
"""A kind that is specific to a study: any arrays, with the study's own version."""


def kind_named(name: str) -> CellKind:
    """Return a kind of :data:`KINDS`, or the one for every other name."""
    return KINDS.get(name, _OWN)


@dataclass(frozen=True)
class Cell:
    """A cell read from its folder, or a failed one.

    Attributes:
        name: folder name.
        config: ``data``, ``model`` (``name``; of a model folder also ``network``, ``recipe``,
            ``test_accuracy``), ``version``, and entries of its kind. An attack (no ``kind``): ``attack``
            (``name`` of the preset row, ``class``, ``preset`` kind, ``hyperparameters``), ``n``, ``seed``,
            ``candidates``.
            The kinds of defenses: see :mod:`deepsec_jax.evaluation.defense_cells`; of detectors:
            :mod:`deepsec_jax.evaluation.detector_jobs`.
        environment: ``versions``, ``device``, ``batch_size``, ``class_names``, ``seconds``,
            ``compile_seconds``, ``gradients``, ``started``, ``finished``, ``findings`` (of the check
            of the model before its first attack); of an attack also ``gradient_seconds``, ``forwards``,
            ``confidences``; of a defense also ``folder``, ``confidences``, ``training``.
        arrays: name -> array, those of its kind in :data:`KINDS`; empty if it failed.
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
        """Which of :data:`KINDS` it is."""
        return kind_of(self.config)


def kind_of(config: Config) -> str:
    """Return a config's kind; one without is an attack."""
    return str(config.get("kind", ATTACK))


def is_current(config: Config) -> bool:
    """Tell whether a config has the current version of its kind."""
    kind = kind_named(kind_of(config))
    return kind is _OWN or int(config.get("version", 1)) == kind.version


def superseded(plan: Mapping[str, Config]) -> set[str]:
    """Return the cells of a plan that a later one takes the place of: equal but for ``versions``.

    Args:
        plan: cell name -> config, in the order in which they were asked for.
    """

    def without_versions(value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {key: without_versions(part) for key, part in value.items() if key != "versions"}
            if kept.get("source") in plan:  # a cell's name, in which versions count
                kept["source"] = without_versions(plan[kept["source"]])
            return kept
        return [without_versions(part) for part in value] if isinstance(value, list) else value

    last: dict[str, str] = {}
    old: set[str] = set()
    for name, config in plan.items():
        same = json.dumps(without_versions(config), sort_keys=True)
        if same in last:
            old.add(last[same])
        last[same] = name
    return old


def words_of(config: Config) -> tuple[str, ...]:
    """Return the words at the beginning of a cell's folder name.

    Raises:
        LookupError: a word is missing in the config, or its kind is unknown.
    """
    return kind_named(kind_of(config)).words(config)


def short_name(config: Config) -> str:
    """Return a short name of a cell, one or two words, for progress and warnings."""
    return kind_named(kind_of(config)).short(config)

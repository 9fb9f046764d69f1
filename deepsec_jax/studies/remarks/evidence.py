"""The cells that remarks are tested on, by what they are about."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from deepsec_jax.defenses import DEFENSES
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.metrics import DetectionRecord
from deepsec_jax.runs.cells import (
    ATTACK,
    CLEAN,
    DETECTION,
    DRAWN,
    MEMBER,
    SECURITY,
    SWEEP,
    TRANSFER,
    UTILITY,
    WHOLE,
    Cell,
)
from deepsec_jax.studies.detectors.detector import detectors_of, key_of
from deepsec_jax.studies.ensembles import votes
from deepsec_jax.studies.ensembles.known import Known, known_of
from deepsec_jax.tables import build
from deepsec_jax.tables.published import Published

T = TypeVar("T")

PAPER = Published("attacks")
TRANSFERABILITY = "deepsec evaluate transferability"
SECURITY_STUDY = "deepsec evaluate security"
UTILITY_STUDY = "deepsec evaluate defenses"
DETECTORS_STUDY = "deepsec evaluate detectors"
ENSEMBLES_STUDY = "deepsec evaluate ensembles"
ATTACKS_STUDY = "deepsec evaluate attacks"


@dataclass(frozen=True)
class Evidence:
    """The cells of one model, data set, sample and preset.

    Attributes:
        data: name of the data set.
        model: name of the undefended model.
        preset: kind of the attacks' presets.
        n: number of images of the attacks.
        attacks: the paper's attack -> its cell on the model.
        transfer: the paper's attack -> cells of its images on other models.
        replayed: (defense, attack) -> right or rejected, success on the undefended model, [n] each.
        own: (defense, attack) -> share of draws in which the defense stays right, under attacks on it, [n].
        utility: defense -> its cell on clean images.
        detection: (detector, attack) -> scores of its images and of clean ones.
        sweep: (detector, radius) -> the same of FGSM at one radius.
        ensembles: cells of ensembles; None without.
    """

    data: str
    model: str
    preset: str
    n: int
    attacks: Mapping[str, Cell]
    transfer: Mapping[str, list[Cell]] = field(default_factory=dict)
    replayed: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    own: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    utility: Mapping[str, Cell] = field(default_factory=dict)
    detection: Mapping[tuple[str, str], DetectionRecord] = field(default_factory=dict)
    sweep: Mapping[tuple[str, float], DetectionRecord] = field(default_factory=dict)
    ensembles: Known | None = None

    def of_goal(self, names: Iterable[str], goal: str) -> list[str]:
        """Return the attacks of one of the paper's goals, ``UAs`` or ``TAs``."""
        return [name for name in names if PAPER.group(name)[0] == goal]


def evidence_of(cells: Iterable[Cell]) -> list[Evidence]:
    """Group finished cells, also of several run directories, by model, data, sample and preset."""
    every = list({cell.name: cell for cell in cells if cell.error is None}.values())
    attacks = [cell for cell in every if cell.kind == ATTACK and _in_paper(cell)]
    groups = build.grouped(attacks, _sample)
    clean = build.grouped((cell for cell in every if cell.kind == UTILITY), _model)
    found = [_evidence(key, group, every) for key, group in groups.items()]
    known = {(each.data, each.model) for each in found}
    for place in clean:
        if place not in known:
            found.append(_evidence((*place, 0, 0, "paper"), [], every))
    return [each for each in found if _is_original(each, every)]


def _is_original(evidence: Evidence, cells: Iterable[Cell]) -> bool:
    """Tell whether it is not only a further model of a study of transfer."""
    transfers = [cell for cell in cells if cell.kind == TRANSFER]
    originals = {str(cell.config["original"]) for cell in transfers}
    named = ("model", "target")
    further = {build.name_of(cell.config[name]) for cell in transfers for name in named} - originals
    averages = any(evidence.attacks) and "members" in _described(next(iter(evidence.attacks.values())))
    return evidence.model not in further and not averages


def _described(cell: Cell) -> Mapping[str, Any]:
    model = cell.config["model"]
    return model if isinstance(model, Mapping) else {}


def _in_paper(cell: Cell) -> bool:
    return bool(PAPER.group(_attack(cell)))


def _attack(cell: Cell) -> str:
    return str(cell.config["attack"]["name"])


def _model(cell: Cell) -> tuple[str, str]:
    return build.name_of(cell.config["data"]), build.name_of(cell.config["model"])


def _sample(cell: Cell) -> tuple[str, str, int, int, str]:
    config = cell.config
    preset = str(config.get("attack", {}).get("preset", "paper"))
    return (*_model(cell), int(config.get("n", 0)), int(config.get("seed", 0)), preset)


def _evidence(
    key: tuple[str, str, int, int, str], attacks: Iterable[Cell], cells: Iterable[Cell]
) -> Evidence:
    every = list(cells)
    here = [cell for cell in every if _model(cell) == key[:2]]
    same = [cell for cell in here if cell.kind != DRAWN and "attack" in cell.config and _sample(cell) == key]
    secured = [cell for cell in same if cell.kind == SECURITY and _in_paper(cell)]
    drawn = [cell for cell in here if cell.kind == DRAWN and _sample(cell)[:4] == key[:4]]
    members = [cell for cell in same if cell.kind in (MEMBER, WHOLE)]
    known = known_of([*members, *drawn], every) if members else None
    return Evidence(
        data=key[0], model=key[1], n=key[2], preset=key[4],
        attacks={_attack(cell): cell for cell in attacks},
        transfer=build.grouped((cell for cell in same if cell.kind == TRANSFER and _in_paper(cell)), _attack),
        replayed={**_from_members(members, known), **_replayed(secured)}, own=_own(secured),
        utility={str(cell.config["defense"]["name"]): cell for cell in here if cell.kind == UTILITY},
        detection=_scored(DETECTION, _attack, key, here), sweep=_scored(SWEEP, _radius, key, here),
        ensembles=known,
    )  # fmt: skip


def _radius(cell: Cell) -> float:
    return float(cell.config["eps"])


def _scored(
    kind: str, name_of: Callable[[Cell], T], key: tuple[str, str, int, int, str], cells: Iterable[Cell]
) -> dict[tuple[str, T], DetectionRecord]:
    """Return the records of all detectors that have clean scores, by detector and attack or radius."""
    here = [cell for cell in cells if cell.kind in (CLEAN, kind)]
    known = {each.key: each for each in detectors_of(here, key[0]) if len(each.clean_scores)}
    # FGSM's preset is the paper's at every radius, whatever that of the other attacks is.
    compared = 4 if kind == SWEEP else 5
    return {
        (known[key_of(cell)].label, name_of(cell)):
            known[key_of(cell)].record(cell.arrays["scores"], cell.arrays["success"])
        for cell in here
        if cell.kind == kind and key_of(cell) in known and _in_paper(cell)
        and _sample(cell)[:compared] == key[:compared]
    }  # fmt: skip


def _replayed(cells: Iterable[Cell]) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    return {
        (str(cell.config["defense"]["name"]), _attack(cell)):
            (np.asarray(cell.arrays["right_or_rejected"], np.float64), cell.arrays["success"] >= 0.5)
        for cell in cells
        if cell.config["knowledge"] == REPLAYED and str(cell.config["defense"]["name"]) in DEFENSES
    } if cells else {}  # fmt: skip


def _from_members(
    cells: Iterable[Cell], known: Known | None
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Return the same from the answers of members of ensembles."""
    found = {}
    for cell in cells:
        source = (
            None if known is None or cell.kind != MEMBER else known.sources.get(str(cell.config["source"]))
        )
        if source is None or cell.config["access"] != "base" or not _in_paper(cell):
            continue
        right = votes.right(votes.averaged([cell.arrays["probabilities"]]), cell.arrays["labels"])
        place = (str(cell.config["defense"]["name"]), _attack(cell))
        found[place] = (right, source.arrays["success"] >= 0.5)
    return found


def _own(cells: Iterable[Cell]) -> dict[tuple[str, str], np.ndarray]:
    """Return the worst of white-box and adaptive attacks, image by image."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for cell in cells:
        if cell.config["knowledge"] not in (WHITE_BOX, ADAPTIVE):
            continue
        place = (str(cell.config["defense"]["name"]), _attack(cell))
        robust = np.minimum(cell.arrays["clean"], cell.arrays["right_or_rejected"]).astype(np.float64)
        found[place] = np.minimum(found[place], robust) if place in found else robust
    return found

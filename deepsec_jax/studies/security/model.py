"""One model of a security evaluation with its cells, and the columns of its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from deepsec_jax.defenses import DEFENSES, DETECTORS
from deepsec_jax.metrics import Column
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.attacks.tables import PAPER as ATTACKS
from deepsec_jax.studies.security.cells import MORE
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.invariants import card_of
from deepsec_jax.studies.security.worst import SYMBOLS, Threat, robust
from deepsec_jax.tables.published import Published

PAPER = Published("security")


def _right(cell: Cell) -> np.ndarray:
    return cell.arrays["right_or_rejected"].astype(np.float64)


def attack_label(name: str) -> str:
    """Return the name of an attack in tables: the paper's, else its card's, with its radius."""
    rest = name.partition("@")[2]
    card = card_of(name)
    if name in ATTACKS.labels() or card is None:
        return ATTACKS.label(name)
    norm, _, eps = rest.removesuffix(MORE).partition(":")
    radius = f" {Threat(norm, float(eps)).label}" if norm in SYMBOLS else f" {rest}" if rest else ""
    return f"{card.name}{radius}{', twice the steps' if name.endswith(MORE) else ''}"


def defense_label(name: str) -> str:
    """Return the name of a defense or detector in tables: the paper's, else its card's."""
    kind = (DEFENSES | DETECTORS).get(name.partition("@")[0])
    return PAPER.label(name) if kind is None or name in PAPER.labels() else str(kind.card.name)


HITS = Column(
    "replayed_hits", "robust", "On hits", "share of the images that fool the undefended model on which this "
    "model is correct or rejects", "IV-C", "share", "higher", "successful", _right, rate=True,
)  # fmt: skip
ROBUST = Column(
    "robust", "robust", "Robust", "share of all n images on which the model is correct or rejects", "ours",
    "share", "higher", "all", robust, rate=True,
)  # fmt: skip
CLEAN = replace(ROBUST, name="clean", title="Clean", formula="share of the n clean images that are correct")


@dataclass(frozen=True)
class Model:
    """One model of a section.

    Attributes:
        key: its settings and weights; empty for the undefended model.
        name: preset row of its defense.
        label: the paper's name.
        cells: (knowledge, attack row) -> cell.
        gates: findings about its figures.
        signs: finished cell of its indicators of attack failure; None without one.
        noise: finished cell of random noise; None without one.
    """

    key: str
    name: str
    label: str
    cells: Mapping[tuple[str, str], Cell]
    gates: tuple[Gate, ...] = ()
    signs: Cell | None = None
    noise: Cell | None = None

"""Gates: what must hold before a share of surviving images may be called robust accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.attacks.cost import uses_gradients
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.defenses.inconsistencies import paired
from deepsec_jax.studies.security.worst import Threat, Worst, worst_case
from deepsec_jax.tables.table import Finding

FEW = 100
"""Below this number of images the interval of a share is wider than 20 points."""

MASKED = "misleading gradients"
WEAK = "surrogate too weak"
BLIND = "no gradient"
BLACK_BOX = "black box ahead of white box"
GREY = "images survive at eps 0.5"
UNTRIED = "no attack at this radius"
SMALL = "few images"
ROUNDING = "lost at 8 bits"


@dataclass(frozen=True)
class Gate:
    """One finding.

    Attributes:
        finding: label and sentence.
        closed: whether the model's figures may not be called robust accuracy.
    """

    finding: Finding
    closed: bool


def gates(
    cells: Mapping[tuple[str, str], Cell], threats: Sequence[Threat], n: int, classes: int
) -> list[Gate]:
    """Return what is wrong with the figures of one defended model.

    Args:
        cells: (access, attack row) -> finished cell.
        threats: radii of the worst case.
        n: number of images.
        classes: number of classes.
    """
    has_adaptive = any(access == ADAPTIVE for access, _ in cells)
    found = [
        *_order(cells, WHITE_BOX, REPLAYED, MASKED, closed=not has_adaptive),
        *_order(cells, ADAPTIVE, WHITE_BOX, WEAK, closed=True),
        *_blind(cells, closed=not has_adaptive),
        *_grey(cells, classes),
        *_rounding(cells),
    ]
    for threat in threats:
        found += _black_box(cells, threat)
        worst = worst_case(list(cells.values()), threat)
        if worst is not None and not worst.used:
            found.append(
                Gate(Finding(UNTRIED, f"{threat.label}: no attack changed an image so little"), True)
            )
    if n < FEW:
        found.append(Gate(Finding(SMALL, f"n = {n}: take at least {FEW} images for a claim"), False))
    return found


def robust(cell: Cell) -> np.ndarray:
    """Return the share of draws in which each image stays correct or is rejected, float64 [N]."""
    return np.minimum(cell.arrays["clean"], cell.arrays["right_or_rejected"]).astype(np.float64)


def _order(
    cells: Mapping[tuple[str, str], Cell], more: str, less: str, label: str, *, closed: bool
) -> list[Gate]:
    """Return attacks that do significantly worse with more knowledge, image by image."""
    above = []
    for (access, name), cell in cells.items():
        other = cells.get((less, name))
        if access != more or other is None or cell.environment.get("zero_gradient"):
            continue
        pair = paired(robust(cell), robust(other))
        if pair.above:
            above.append(f"{name} by {100 * pair.gap:.0f} points")
    if not above:
        return []
    words = (more.replace("_", "-"), less.replace("_", "-"))
    text = f"{words[0]} attacks leave more images than {words[1]} ones: {', '.join(above)}"
    return [Gate(Finding(label, text), closed)]


def _blind(cells: Mapping[tuple[str, str], Cell], *, closed: bool) -> list[Gate]:
    names = [name for (_, name), cell in cells.items() if cell.environment.get("zero_gradient")]
    if not names:
        return []
    text = f"the model has no gradient, so {len(names)} white-box attacks were not run"
    return [Gate(Finding(BLIND, text), closed)]


def _grey(cells: Mapping[tuple[str, str], Cell], classes: int) -> list[Gate]:
    """Return attacks that leave more than chance at eps of at least 0.5, where any image can be made grey."""
    found = []
    for (access, name), cell in cells.items():
        used = cell.config["attack"]["hyperparameters"]
        eps = used.get("eps")
        wide = used.get("norm", "linf") == "linf" and isinstance(eps, int | float) and eps >= 0.5
        iterates = int(used.get("steps", 1)) > 1
        if wide and iterates and access != REPLAYED and robust(cell).mean() > 1.5 / classes:
            left = 100 * robust(cell).mean()
            text = f"{name} at eps = {eps:g} leaves {left:.0f} %, though any image can be made grey"
            found.append(Gate(Finding(GREY, text), True))
    return found


def _rounding(cells: Mapping[tuple[str, str], Cell]) -> list[Gate]:
    """Return budget attacks whose success falls by more than ten points when images are rounded to 8 bits.

    The images of a minimum-norm attack lie at the boundary, and most are lost on any model.
    """
    lost = []
    for (_, name), cell in cells.items():
        if "right_or_rejected_8bit" not in cell.arrays:
            continue
        rounded = np.minimum(cell.arrays["clean"], cell.arrays["right_or_rejected_8bit"])
        points = 100 * float(np.mean(rounded - robust(cell)))
        kind = ATTACKS.get(name.partition("@")[0])
        closest = kind is not None and kind.card.kind == "minimum-norm"
        if not closest and points > 10:
            lost.append(f"{name} {points:.0f}")
    if not lost:
        return []
    return [
        Gate(Finding(ROUNDING, f"points of success lost by rounding to 8 bits: {', '.join(lost)}"), False)
    ]


def _black_box(cells: Mapping[tuple[str, str], Cell], threat: Threat) -> list[Gate]:
    """Return whether attacks without gradients fool images that no attack with gradients fools."""
    groups: dict[bool, list[Cell]] = {True: [], False: []}
    for (_, name), cell in cells.items():
        kind = ATTACKS.get(name.partition("@")[0])
        groups[kind is None or uses_gradients(kind())].append(cell)
    white, black = (worst_case(groups[key], threat) for key in (True, False))
    if white is None or black is None:
        return []
    only = _taken(black) & ~_taken(white)
    if only.sum() <= max(1, 0.002 * len(only)):
        return []
    text = (
        f"{threat.label}: {int(only.sum())} of n = {len(only)} images fall to attacks without gradients only"
    )
    return [Gate(Finding(BLACK_BOX, text), True)]


def _taken(worst: Worst) -> np.ndarray:
    return (worst.robust < 0.5) & (worst.clean >= 0.5)

"""Gates: what must hold before a share of surviving images may be called robust accuracy."""

from collections.abc import Mapping, Sequence

import numpy as np

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.attacks.cost import uses_gradients
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.cells import MORE
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.indicated import indicated
from deepsec_jax.studies.security.gating.invariants import invariants
from deepsec_jax.studies.security.gating.noise import noise_gates
from deepsec_jax.studies.security.gating.tried import is_search, on_itself, tried
from deepsec_jax.studies.security.worst import Threat, Worst, compared, robust, worst_case
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
GAINING = "more steps still gain"

LOST = 0.2
"""Share of the images that fall, above which those that survive as files of 8 bits close a gate."""

ROUGH = 4 / 255
"""Radius in L-inf below which half a grey level is a large part of the change, so rounding may undo it."""

THROUGH = "--knowledge adaptive, through a surrogate of the defense"
OWN = "--knowledge white_box adaptive with --attacks apgd, which is run at every radius"
SEARCH = "--attacks square rays, with more queries"


def gates(
    cells: Mapping[tuple[str, str], Cell],
    threats: Sequence[Threat],
    n: int,
    classes: int,
    indicators: Cell | None = None,
    noise: Cell | None = None,
) -> list[Gate]:
    """Return what is wrong with the figures of one model.

    Args:
        cells: (knowledge, attack row) -> finished cell.
        threats: radii of the worst case.
        n: number of images.
        classes: number of classes.
        indicators: the cell of the indicators of attack failure, if it is finished.
        noise: the cell of random noise, if it is finished.
    """
    weak = not any(knowledge == ADAPTIVE for knowledge, _ in cells)
    found = [
        *_order(cells, WHITE_BOX, REPLAYED, MASKED, closed=weak, remedy=THROUGH),
        *_order(cells, ADAPTIVE, WHITE_BOX, WEAK, closed=True, remedy="another surrogate of the defense"),
        *_blind(cells, closed=weak),
        *_grey(cells, classes),
        *invariants(cells, closed=weak),
        *_rounding(cells),
    ]
    if indicators is not None:
        found += indicated(indicators.arrays, surrogate=bool(indicators.environment["surrogate"]))
    if noise is not None:
        radius = Threat("linf", float(noise.config["attack"]["eps"]))
        found += noise_gates(noise.arrays, list(cells.values()), radius)
    for threat in threats:
        found += [*_black_box(cells, threat), *_gaining(cells, threat), *_files(cells, threat)]
    untried = [each.label for each in threats if cells and not on_itself(list(cells.values()), each)]
    if untried:
        text = f"{', '.join(untried)}: no attack on the model itself, only replayed images or larger changes"
        found.append(Gate(Finding(UNTRIED, text), True, OWN))
    if n < FEW:
        text = f"n = {n} is too few for a claim"
        found.append(Gate(Finding(SMALL, text), True, f"--n {FEW} or more"))
    return found


def _order(
    cells: Mapping[tuple[str, str], Cell], more: str, less: str, label: str, *, closed: bool, remedy: str
) -> list[Gate]:
    """Return attacks that do significantly worse with more knowledge, image by image."""
    above = []
    for (knowledge, name), cell in cells.items():
        other = cells.get((less, name))
        if knowledge != more or other is None or cell.environment.get("zero_gradient"):
            continue
        pair = compared(cell, other)
        if pair.above:
            above.append(f"{name} by {100 * pair.gap:.0f} points")
    if not above:
        return []
    words = (more.replace("_", "-"), less.replace("_", "-"))
    text = f"{words[0]} attacks leave more images than {words[1]} ones: {', '.join(above)}"
    return [Gate(Finding(label, text), closed, remedy if closed else "")]


def _blind(cells: Mapping[tuple[str, str], Cell], *, closed: bool) -> list[Gate]:
    names = [name for (_, name), cell in cells.items() if cell.environment.get("zero_gradient")]
    if not names:
        return []
    text = f"the model has no gradient, so {len(names)} white-box attacks were not run"
    return [Gate(Finding(BLIND, text), closed, THROUGH if closed else "")]


def _grey(cells: Mapping[tuple[str, str], Cell], classes: int) -> list[Gate]:
    """Return attacks that leave more than chance at eps of at least 0.5, where any image can be made grey."""
    found = []
    for (knowledge, name), cell in cells.items():
        used = cell.config["attack"]["hyperparameters"]
        eps = used.get("eps")
        wide = used.get("norm", "linf") == "linf" and isinstance(eps, int | float) and eps >= 0.5
        iterates = int(used.get("steps", 1)) > 1
        if wide and iterates and knowledge != REPLAYED and robust(cell).mean() > 1.5 / classes:
            left = 100 * robust(cell).mean()
            text = f"{name} at eps = {eps:g} leaves {left:.0f} %, though any image can be made grey"
            found.append(Gate(Finding(GREY, text), True, "more steps, or another loss: the attack is broken"))
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
        if not is_search(cell) and points > 10:
            lost.append(f"{name} {points:.0f}")
    if not lost:
        return []
    text = f"points of success lost by rounding to 8 bits: {', '.join(lost)}"
    return [Gate(Finding(ROUNDING, text), False, "attacks.Rounded, which attacks the images as files")]


def _files(cells: Mapping[tuple[str, str], Cell], threat: Threat) -> list[Gate]:
    """Return whether many images fall only as floats: stored with 8 bits they survive every attack.

    Images of minimum-norm attacks lie at the boundary, and most are lost on any model, so they do not count.
    Neither does a radius below :data:`ROUGH`.
    """
    made = [
        cell for cell in cells.values() if "right_or_rejected_8bit" in cell.arrays and not is_search(cell)
    ]
    as_floats = worst_case(made, threat)
    as_files = worst_case(made, threat, said="right_or_rejected_8bit")
    if as_floats is None or as_files is None or (threat.norm == "linf" and threat.eps < ROUGH):
        return []
    fallen, lost = _taken(as_floats), _taken(as_floats) & _clearly_left(as_files)
    if lost.sum() <= max(1, LOST * fallen.sum()):
        return []
    text = (
        f"{threat.label}: of {int(fallen.sum())} images that fall, {int(lost.sum())} survive every attack "
        "when they are stored with 8 bits, so the figure holds for floats only"
    )
    remedy = "attack the images as files: attacks.Rounded around each attack, in evaluation.evaluate"
    return [Gate(Finding(ROUNDING, text), True, remedy)]


def _black_box(cells: Mapping[tuple[str, str], Cell], threat: Threat) -> list[Gate]:
    """Return whether attacks without gradients, or replays, fool images that no other attack fools."""
    groups: dict[bool, list[Cell]] = {True: [], False: []}
    for (knowledge, name), cell in cells.items():
        kind = ATTACKS.get(name.partition("@")[0])
        groups[knowledge != REPLAYED and (kind is None or uses_gradients(kind()))].append(cell)
    first = tried(groups[True], threat)
    white, black = (worst_case(groups[key], threat, first=first) for key in (True, False))
    if white is None or black is None:
        return []
    both = slice(min(len(white.robust), len(black.robust)))
    only = _taken(black)[both] & _clearly_left(white)[both]
    if only.sum() <= max(1, 0.002 * len(only)):
        return []
    text = (
        f"{threat.label}: {int(only.sum())} of n = {len(only)} images fall only to attacks without gradients "
        "or to replayed images"
    )
    return [Gate(Finding(BLACK_BOX, text), True, f"{THROUGH}, or {SEARCH}")]


def _gaining(cells: Mapping[tuple[str, str], Cell], threat: Threat) -> list[Gate]:
    """Return whether more steps and restarts fool images that no other attack fools."""
    more = [cell for (_, name), cell in cells.items() if name.endswith(MORE)]
    others = [cell for (_, name), cell in cells.items() if not name.endswith(MORE)]
    first = tried(others, threat)
    longer, rest = (worst_case(each, threat, first=first) for each in (more, others))
    if longer is None or rest is None or not longer.used or not rest.used:
        return []
    both = slice(min(len(longer.robust), len(rest.robust)))
    only = _taken(longer)[both] & ~_taken(rest)[both]
    if only.sum() <= max(1, 0.01 * len(only)):
        return []
    text = f"{threat.label}: {int(only.sum())} of n = {len(only)} images fall to twice the steps only"
    return [Gate(Finding(GAINING, text), True, "--preset strong, with more steps and restarts")]


def _taken(worst: Worst) -> np.ndarray:
    return (worst.robust < 0.5) & (worst.clean >= 0.5)


def _clearly_left(worst: Worst) -> np.ndarray:
    """Return where the model holds in three of four draws: half of them may differ by chance."""
    return worst.robust > 0.75

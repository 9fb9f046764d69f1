"""Invariants of attacks on one model: what must hold between the cells, whatever the model is."""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.catalog import Card
from deepsec_jax.evaluation.defense_cells import REPLAYED
from deepsec_jax.metrics.bounded_mean import bounded_mean_interval
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.defenses.inconsistencies import paired
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.worst import OUTSIDE, SYMBOLS, compared, robust
from deepsec_jax.tables.table import Finding

BEYOND = "outside the ball"
INVALID = "invalid images"
ORDER = "weaker attack ahead of a stronger one"
RADIUS = "larger radius fools fewer images"
UNBOUNDED = "unbounded attack fails"
FARTHER = "search ends farther away"
KNOWN = "weak on the undefended network"

NEARER = (
    ("deepfool", "fgsm", "l2"), ("fmn", "deepfool", "l2"), ("ddn", "deepfool", "l2"),
    ("cw2", "deepfool", "l2"), ("cw2", "cw2@k20", "l2"),
    ("ead@l1", "cw2", "l1"), ("ead", "cw2", "l1"), ("ead@l1", "ead", "l1"),
)  # fmt: skip
"""(Attack, other, norm): the median change of the first must not be larger; only with equal goals."""

FURTHER = 1.05
"""Factor by which a change counts as larger."""

FLOORS = {
    "mnist": {"pgd": (0.3, 0.99), "bim": (0.3, 0.99), "fgsm": (0.3, 0.6)},
    "cifar10": {"pgd": (8 / 255, 0.99)},
}
"""Data -> attack -> radius and the least success on a network that was trained without a defense."""

Cells = Mapping[tuple[str, str], Cell]


def invariants(cells: Cells, *, closed: bool) -> list[Gate]:
    """Return the invariants that do not hold between the cells of one model.

    Args:
        cells: (knowledge, attack row) -> finished cell.
        closed: whether an attack that is too weak closes a gate; not if a stronger kind of knowledge exists.
    """
    made = {place: cell for place, cell in cells.items() if place[0] != REPLAYED}
    gates = []
    for label, close, remedy, sentences in (
        (BEYOND, True, "report the attack: its images are not in its ball", _beyond(made)),
        (INVALID, True, "report the attack: its images are no images", _invalid(made)),
        (ORDER, closed, "--preset strong, or more steps for the stronger attack", _order(made)),
        (RADIUS, closed, "--preset strong, or more steps at the larger radius", _radius(made)),
        (UNBOUNDED, False, "--preset strong: the search was stopped too early", _unbounded(made)),
        (
            FARTHER,
            closed,
            "--preset strong, or more search steps for the attack that ends farther away",
            _farther(made),
        ),
    ):
        if said := ", ".join(sentences):
            gates.append(Gate(Finding(label, said), close, remedy))
    return gates


def known_success(cells: Cells, data: str) -> list[Gate]:
    """Return the attacks that fool an undefended network too seldom, of which every figure suffers.

    A weak FGSM closes no gate: the worst case rests on the attacks with many steps.

    Args:
        cells: (knowledge, attack row) -> finished cell on a network that was trained without a defense.
        data: name of its data set.
    """
    gates = []
    for name, (radius, floor) in FLOORS.get(data, {}).items():
        for (_, row), cell in cells.items():
            used = _used(cell)
            eps = used.get("eps")
            same = row.partition("@")[0] == name and used.get("norm", "linf") == "linf"
            if not same or not isinstance(eps, int | float) or eps < radius - OUTSIDE:
                continue
            left = robust(cell)
            least = bounded_mean_interval(left, 0.0, 1.0)[0]
            if least > 1 - floor:
                text = (
                    f"{row} at eps = {eps:.4g} fools {100 * (1 - left.mean()):.0f} % of n = {len(left)} "
                    f"images of the undefended network, where {100 * floor:.0f} % are known to fall"
                )
                remedy = "--preset strong, or --attacks apgd autoattack, which must fool nearly all"
                gates.append(Gate(Finding(KNOWN, text), name != "fgsm", remedy))
    return gates


def card_of(row: str) -> Card | None:
    """Return the card of a preset row's attack; None for an unknown one."""
    return getattr(ATTACKS.get(row.partition("@")[0]), "card", None)


def _used(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = cell.config["attack"]["hyperparameters"]
    return found


def _beyond(cells: Cells) -> Iterator[str]:
    for (_, name), cell in cells.items():
        card, eps = card_of(name), _used(cell).get("eps")
        norm = _used(cell).get("norm", "linf")
        if card is None or card.kind != "budget" or not isinstance(eps, int | float):
            continue
        if norm in cell.arrays and (largest := float(cell.arrays[norm].max(initial=0.0))) > eps + OUTSIDE:
            yield f"{name} changes an image by {largest:.4g} with eps = {eps:g}"


def _invalid(cells: Cells) -> Iterator[str]:
    for (_, name), cell in cells.items():
        images = cell.arrays.get("x_adv")
        if images is None or not len(images):
            continue
        flat = images.reshape(len(images), -1)
        wrong = ~np.isfinite(flat).all(1) | (flat.min(1) < -OUTSIDE) | (flat.max(1) > 1 + OUTSIDE)
        grey = (flat.max(1) == flat.min(1)) & (cell.arrays["linf"] > 0)
        if wrong.any():
            yield f"{name} makes {int(wrong.sum())} images with values outside [0, 1]"
        # With a radius of 0.5 and more any image can be made grey.
        elif grey.any() and float(_used(cell).get("eps") or 0) < 0.5:
            yield f"{name} makes {int(grey.sum())} images of one value"


def _order(cells: Cells) -> Iterator[str]:
    """Yield the attacks that lose to one of ``Card.stronger_than`` at one radius, with equal knowledge."""
    for ((knowledge, strong), first), ((other, weak), second) in permutations(cells.items(), 2):
        card = card_of(strong)
        if knowledge != other or card is None or weak.partition("@")[0] not in card.stronger_than:
            continue
        if all(_used(first).get(key, default) == _used(second).get(key, default)
               for key, default in (("eps", None), ("norm", "linf"))):  # fmt: skip
            pair = compared(first, second)
            if pair.above:
                yield f"{weak} before {strong} by {100 * pair.gap:.0f} points"


def _radius(cells: Cells) -> Iterator[str]:
    """Yield the attacks that fool fewer images with a larger eps and equal other settings."""

    def but_radius(cell: Cell) -> Any:
        used = _used(cell)
        return cell.config["attack"].get("class"), {
            key: used[key] for key in used if key not in ("eps", "step_size")
        }

    for ((knowledge, large), first), ((other, small), second) in permutations(cells.items(), 2):
        eps, lower = (_used(cell).get("eps") for cell in (first, second))
        if knowledge != other or not isinstance(eps, int | float) or not isinstance(lower, int | float):
            continue
        if eps > lower and but_radius(first) == but_radius(second):
            pair = compared(first, second)
            if pair.above:
                yield f"{large} after {small} by {100 * pair.gap:.0f} points"


def _unbounded(cells: Cells) -> Iterator[str]:
    for (knowledge, name), cell in cells.items():
        card, left = card_of(name), float(robust(cell).mean())
        if card is not None and card.unbounded and left > 0 and not cell.environment.get("zero_gradient"):
            yield f"{knowledge.replace('_', '-')} {name} leaves {100 * left:.0f} %"


def _farther(cells: Cells) -> Iterator[str]:
    """Yield the searches that end farther away than a search that should, on images that both fool."""
    for knowledge, name in cells:
        for strong, weak, norm in NEARER:
            if name != strong or (knowledge, weak) not in cells:
                continue
            first, second = cells[knowledge, strong], cells[knowledge, weak]
            if _used(first).get("targeted") != _used(second).get("targeted"):
                continue
            both = slice(min(len(first.arrays["clean"]), len(second.arrays["clean"])))
            fooled = (robust(first)[both] < 0.5) & (robust(second)[both] < 0.5)
            fooled &= (first.arrays["linf"][both] > 0) & (second.arrays["linf"][both] > 0)
            far, near = (cell.arrays[norm][both][fooled] for cell in (first, second))
            if not fooled.any() or np.median(far) <= FURTHER * np.median(near):
                continue
            if paired((far > FURTHER * near).astype(float), (near > FURTHER * far).astype(float)).above:
                ends = f"{strong} ends at {SYMBOLS[norm]} {np.median(far):.3g}"
                yield f"{ends}, {weak} at {np.median(near):.3g}, medians of n = {int(fooled.sum())}"

"""The worst case per image: the share of images that survive every attack within a radius."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.defenses.inconsistencies import Paired, paired
from deepsec_jax.tables.numbers import digits

OUTSIDE = 1e-5
"""Tolerance of a radius, for rounding in float32."""

SYMBOLS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}


@dataclass(frozen=True)
class Threat:
    """What the attacker may do.

    Attributes:
        norm: ``linf``, ``l2``, ``l1`` or ``l0`` (share of changed entries).
        eps: radius.
    """

    norm: str
    eps: float

    @property
    def key(self) -> str:
        """Its name in files."""
        return f"{self.norm}:{digits(self.eps)}"

    @property
    def label(self) -> str:
        """Its heading."""
        whole = self.eps * 255
        radius = (
            f"{whole:.0f}/255" if abs(whole - round(whole)) < 1e-6 and self.eps < 0.1 else digits(self.eps)
        )
        return f"{SYMBOLS[self.norm]} ≤ {radius}"


def usual_threats(channels: int) -> tuple[Threat, ...]:
    """Return the usual radii.

    Grey images: 0.1, 0.2 and 0.3 in L-inf, 1.5 in L2.  Colour images: 2/255, 8/255, and 0.5 in L2.
    """
    radii, euclidean = ((0.1, 0.2, 0.3), 1.5) if channels == 1 else ((2 / 255, 8 / 255), 0.5)
    return (*(Threat("linf", eps) for eps in radii), Threat("l2", euclidean))


def largest_linf(channels: int) -> Threat:
    """Return the largest usual radius in L-inf."""
    return [threat for threat in usual_threats(channels) if threat.norm == "linf"][-1]


@dataclass(frozen=True)
class Worst:
    """The worst case of one model in one threat.

    Attributes:
        robust: per image, the smallest share of draws in which the model is correct or rejects, float64 [N].
        clean: share of draws in which it is correct on the clean image, float64 [N].
        by: index of the cell that took the image, -1 if it survives all, int [N].
        used: indices of the cells with at least one image inside the radius.
    """

    robust: np.ndarray
    clean: np.ndarray
    by: np.ndarray
    used: tuple[int, ...]


def inside(cell: Cell, threat: Threat) -> bool:
    """Tell whether a finished cell has an image that was changed within the radius."""
    arrays = cell.arrays
    return bool(((arrays[threat.norm] <= threat.eps + OUTSIDE) & (arrays["linf"] > 0)).any())


def worst_case(
    cells: Sequence[Cell], threat: Threat, *, first: int | None = None, said: str = "right_or_rejected"
) -> Worst | None:
    """Return the worst case over finished cells of one model on the same images; None without cells.

    A cell of fewer images holds the first ones; the others count as not attacked by it.  An image counts for
    an attack only if it lies inside the radius.  The attacker may also leave an image unchanged, so a clean
    error is never robust.

    Args:
        cells: of one model.
        threat: the radius.
        first: number of images; default that of the largest cell.
        said: the array that says in which share of draws the model is right or rejects.
    """
    found = [cell for cell in cells if cell.error is None]
    if not found:
        return None
    longest = max(found, key=lambda cell: len(cell.arrays["clean"]))
    clean = np.asarray(longest.arrays["clean"][:first], np.float64)
    robust, by = clean.copy(), np.where(clean <= 0, len(cells), -1)
    used = []
    for index, cell in enumerate(cells):
        if cell.error is not None:
            continue
        if inside(cell, threat):
            used.append(index)
        here = clean.copy()
        both = slice(min(len(clean), len(cell.arrays["clean"])))
        near = cell.arrays[threat.norm][both] <= threat.eps + OUTSIDE
        here[both] = np.where(near, np.minimum(clean[both], cell.arrays[said][both]), clean[both])
        better = here < robust
        by = np.where(better, index, by)
        robust = np.minimum(robust, here)
    return Worst(robust, clean, np.where(by == len(cells), -1, by), tuple(used))


def robust(cell: Cell) -> np.ndarray:
    """Return the share of draws in which each image stays correct or is rejected, float64 [N]."""
    share: np.ndarray = np.minimum(cell.arrays["clean"], cell.arrays["right_or_rejected"]).astype(np.float64)
    return share


def compared(first: Cell, second: Cell) -> Paired:
    """Compare what two attacks leave, on the images that both attacked."""
    both = slice(min(len(first.arrays["clean"]), len(second.arrays["clean"])))
    return paired(robust(first)[both], robust(second)[both])


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Return images rounded to the 256 levels of an image file."""
    return (np.round(images * np.float32(255)) / np.float32(255)).astype(np.float32)


def distances(x: np.ndarray, x_adv: np.ndarray) -> dict[str, np.ndarray]:
    """Return the norms of the changes by name, float32 [N]; L0 is the share of changed entries."""
    change = np.abs(x_adv.astype(np.float64) - x.astype(np.float64)).reshape(len(x), -1)
    found = {
        "l0": (change > 0).mean(axis=1), "l1": change.sum(axis=1),
        "l2": np.sqrt((change**2).sum(axis=1)), "linf": change.max(axis=1, initial=0.0),
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in found.items()}

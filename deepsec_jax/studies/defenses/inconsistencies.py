"""Inconsistencies between columns under attack, tested image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, SQUARES, WHITE_BOX
from deepsec_jax.tables.table import Finding

MASKING = "masking: white-box above replayed"
ZERO_GRADIENT = "zero gradient: PGD was not run"
UNFINISHED = "weak surrogate: adaptive is not the lowest"

_WHY = {
    WHITE_BOX: (
        MASKING,
        "the model's gradients mislead the attack, so white-box accuracy says nothing about security",
    ),
    ADAPTIVE: (
        UNFINISHED, "the attack through the surrogate is too weak, so its figure overstates the defense"
    ),
}  # fmt: skip

SEARCHED = "weak gradients: Square fooled more"

_SURE = 0.025  # one-sided, as the upper end of a 95 % interval


@dataclass(frozen=True)
class Paired:
    """Two columns over the same images.

    Attributes:
        higher: images on which the first is larger.
        lower: images on which it is smaller.
        gap: mean of the first minus that of the second.
        p: p-value of McNemar's exact test, one-sided (on shares of draws, of the sign test).
    """

    higher: int
    lower: int
    gap: float
    p: float

    @property
    def above(self) -> bool:
        """Whether the first is significantly above the second."""
        return self.gap > 0 and self.p < _SURE


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two columns image by image, float [N]."""
    higher, lower = int((first > second).sum()), int((first < second).sum())
    p = stats.binomtest(higher, higher + lower, alternative="greater").pvalue if higher + lower else 1.0
    return Paired(higher, lower, float(np.mean(first) - np.mean(second)) if len(first) else 0.0, float(p))


def inconsistencies(columns: Mapping[str, np.ndarray]) -> list[Finding]:
    """Return the inconsistencies of a defense's columns under attack.

    An attacker with more knowledge cannot do worse, so replayed >= white-box >= adaptive.  White-box above
    replayed: the defended model's gradients are misleading, and its white-box accuracy is meaningless.
    Adaptive above either: the attack through the surrogate is too weak.

    Args:
        columns: ``replayed``, ``white_box`` and ``adaptive`` over the same images, as far as they exist.
    """
    found = []
    for more, less in ((WHITE_BOX, REPLAYED), (ADAPTIVE, WHITE_BOX), (ADAPTIVE, REPLAYED)):
        if more in columns and less in columns:
            pair = paired(columns[more], columns[less])
            if pair.above:
                label, why = _WHY[more]
                found.append(Finding(label, f"{_figures(columns, more, less, pair)}: {why}"))
    return found


def search_ahead(felled: Sequence[int], search: str, n: int) -> list[Finding]:
    """Return a warning if a search without gradients fools images that attacks with gradients missed.

    A few images may be chance; AutoAttack's own warning has a limit of 0.2 % of n.

    Args:
        felled: number of images that each attack of the adaptive cascade was the first to fool; the search is
            last.
        search: kind of search; one guided by a surrogate is expected to find more.
        n: images of the sample.
    """
    if not felled or search != SQUARES or felled[-1] <= max(1, 0.002 * n):
        return []
    return [
        Finding(
            SEARCHED,
            f"{felled[-1]} of n = {n} images were fooled by a random search without gradients but not by the "
            "attacks through the surrogate: these are too weak, and the figure may be too high",
        )
    ]


def _figures(columns: Mapping[str, np.ndarray], first: str, second: str, pair: Paired) -> str:
    shares = [f"{name.replace('_', '-')} {100 * np.mean(columns[name]):.1f} %" for name in (first, second)]
    return (
        f"{shares[0]} is above {shares[1]} of n = {len(columns[first])} ({pair.higher} images for, "
        f"{pair.lower} against, p = {pair.p:.1g})"
    )

"""FGSM at growing radii as the paper's Table VII, and once more with the best image so far carried over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepsec_jax.evaluation import detection_published
from deepsec_jax.evaluation.carried import carried
from deepsec_jax.evaluation.detection_entries import DetectorHead, entry_of, key_of
from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.evaluation.published_file import Printed
from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.runs.cells import Cell

PLAIN, CARRIED = "plain", "carried"
"""A sweep's images: FGSM's at each radius; of each example the best one so far."""

SWEPT = ("mr", "tpr", "auc", "evasion")
"""Columns of a sweep."""

Scored = Mapping[float, tuple[np.ndarray, np.ndarray]]
"""eps -> scores and success [N], by growing eps."""


@dataclass(frozen=True)
class SweepRow:
    """FGSM at one radius.

    Attributes:
        how: :data:`PLAIN` or :data:`CARRIED`.
        eps: radius.
        n: number of candidates.
        cells: detector's key -> cell.
        entries: detector's key -> column name -> figure.
        evades: detector's key -> share of draws in which each example evades [N]; of finished cells.
    """

    how: str
    eps: float
    n: int
    cells: dict[str, Cell]
    entries: dict[str, dict[str, Entry]]
    evades: dict[str, np.ndarray]


def sweep_rows(
    cells: Sequence[Cell], heads: Sequence[DetectorHead], dataset: str, note: str
) -> list[SweepRow]:
    """Return the rows of a sweep on one candidate set: plain ones by eps, then carried ones.

    Args:
        cells: of kind ``sweep``.
        heads: the section's detectors.
        dataset: data set name.
        note: why the section does not carry the paper's title.
    """
    by_eps: dict[float, dict[str, Cell]] = {}
    for cell in cells:
        by_eps.setdefault(float(cell.config["eps"]), {})[key_of(cell)] = cell
    grown = dict(sorted(by_eps.items()))
    plain: dict[str, Scored] = {
        head.key: {
            eps: (found[head.key].arrays["scores"], found[head.key].arrays["success"])
            for eps, found in grown.items()
            if head.key in found and found[head.key].error is None
        }
        for head in heads
    }
    best = {head.key: _carried(plain[head.key], head.threshold) for head in heads}
    return [
        _row(how, eps, found, heads, images, dataset, note)
        for how, images in ((PLAIN, plain), (CARRIED, best))
        for eps, found in grown.items()
    ]


def _carried(plain: Scored, threshold: float) -> Scored:
    """Return the best images so far at each radius; one whose cell failed is left out."""
    if not plain:
        return {}
    scores, success = (np.stack(parts) for parts in zip(*plain.values(), strict=True))
    best = carried(scores, success, threshold)
    return dict(zip(plain, zip(*best, strict=True), strict=True))


def _row(
    how: str, eps: float, cells: dict[str, Cell], heads: Sequence[DetectorHead],
    images: Mapping[str, Scored], dataset: str, note: str,
) -> SweepRow:  # fmt: skip
    evasion = DETECTION_METRICS["evasion"]
    return SweepRow(
        how=how, eps=eps, n=int(next(iter(cells.values())).config["n"]), cells=cells,
        entries={
            head.key: {
                name: entry_of(
                    DETECTION_METRICS[name], head, cells.get(head.key), images[head.key].get(eps),
                    _said(how, dataset, eps, head, name), dataset=dataset, attack="fgsm", note=note,
                )
                for name in SWEPT
            }
            for head in heads
        },
        evades={
            head.key: np.asarray(evasion.values(head.record(*images[head.key][eps])))
            for head in heads
            if eps in images[head.key]
        },
    )  # fmt: skip


def _said(how: str, dataset: str, eps: float, head: DetectorHead, column: str) -> Printed:
    if how == CARRIED:
        return Printed(float("nan"), "the paper carries nothing over")
    return detection_published.printed_sweep(dataset, eps, head.name, column)

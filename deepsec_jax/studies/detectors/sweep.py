"""FGSM at increasing radii as in the paper's Table VII, and with the best image over all radii up to each."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.detectors.cumulative_best import cumulative_best
from deepsec_jax.studies.detectors.detector import PAPER, Detector, Scored, figure_of, key_of, part_record
from deepsec_jax.tables import build
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.published import Printed
from deepsec_jax.tables.table import Row, Table

PLAIN, CARRIED = "plain", "carried"
"""A sweep's images: FGSM's at each radius; the best one over all radii up to each."""

SWEPT = ("mr", "tpr", "auc", "evasion")
"""Columns of a sweep."""

_INTRO = (
    "Plain: FGSM's image at each radius, as in the paper. One large step overshoots, so plain FGSM may be "
    "detected more often at a larger radius. Carried: the best image of each example over all radii up to "
    "this one, since a larger ball contains the smaller ones. MR is the share of all n that fool the model, "
    "flagged or not; AUC and TPR are over those."
)


def sweep_table(
    cells: Sequence[Cell], detectors: Sequence[Detector], dataset: str, title: str, note: str,
    failed: tuple[str, ...], times: bool,
) -> Table:  # fmt: skip
    """Return the table of a sweep on one candidate set: plain rows by eps, then carried ones.

    Args:
        cells: of kind ``sweep``.
        detectors: the section's.
        dataset: data set name.
        title: of the section.
        note: reason why the section does not carry the paper's title.
        failed: failed cells.
        times: see ``studies.report``.
    """
    by_eps = build.grouped(sorted(cells, key=lambda cell: float(cell.config["eps"])), _eps)
    grown = {eps: {key_of(cell): cell for cell in group} for eps, group in by_eps.items()}
    plain: dict[str, dict[float, Scored]] = {
        each.key: {
            eps: (found[each.key].arrays["scores"], found[each.key].arrays["success"])
            for eps, found in grown.items()
            if each.key in found and found[each.key].error is None
        }
        for each in detectors
    }
    best = {each.key: _carried(plain[each.key], each.threshold) for each in detectors}
    rows = tuple(
        _row(how, eps, found, detectors, images, dataset, note, times)
        for how, images in ((PLAIN, plain), (CARRIED, best))
        for eps, found in grown.items()
    )
    paper = "" if note else PAPER.title(f"{dataset} sweep")
    return Table(
        kind="sweep", title=title, note=note, about="FGSM at increasing radii", heading="Images", base="ε",
        rows=rows, spans=tuple(each.span([DETECTION_METRICS[name] for name in SWEPT]) for each in detectors),
        parts="detectors", notes=failed, intro=_INTRO,
        page_title=f"FGSM at increasing radii{f': {paper}' if paper else ''}",
        caption=". FGSM at each radius: ours, its 95\N{NARROW NO-BREAK SPACE}% interval, and the number "
                "printed in the paper.",
    )  # fmt: skip


def _eps(cell: Cell) -> float:
    return float(cell.config["eps"])


def _carried(plain: Mapping[float, Scored], threshold: float) -> dict[float, Scored]:
    """Return the best images over all radii up to each one; radii with a failed cell are left out."""
    if not plain:
        return {}
    scores, success = (np.stack(parts) for parts in zip(*plain.values(), strict=True))
    best = cumulative_best(scores, success, threshold)
    return dict(zip(plain, zip(*best, strict=True), strict=True))


def _row(
    how: str, eps: float, cells: Mapping[str, Cell], detectors: Sequence[Detector],
    images: Mapping[str, Mapping[float, Scored]], dataset: str, note: str, times: bool,
) -> Row:  # fmt: skip
    n = int(next(iter(cells.values())).config["n"])
    evasion = DETECTION_METRICS["evasion"]
    return Row(
        key=f"{how} {eps:g}", name=how, label=how, n=n, base=digits(eps), cells=cells,
        figures={
            each.key: {
                name: figure_of(
                    DETECTION_METRICS[name], each, cells.get(each.key), images[each.key].get(eps),
                    _printed(how, dataset, eps, each, name), dataset=dataset, attack="fgsm", note=note,
                )
                for name in SWEPT
            }
            for each in detectors
        },
        values={
            each.key: np.asarray(evasion.values(each.record(*images[each.key][eps])))
            for each in detectors
            if eps in images[each.key]
        },
        fields={"table": f"sweep {how}", "attack": "fgsm", "eps": f"{eps:g}"},
        record={"images": how, "eps": eps, "n": n},
        records={each.key: part_record(each, cells.get(each.key), times) for each in detectors},
    )  # fmt: skip


def _printed(how: str, dataset: str, eps: float, detector: Detector, column: str) -> Printed:
    if how == CARRIED:
        return Printed(math.nan, "the paper has only plain FGSM")
    table = f"{dataset} sweep"
    if column not in PAPER.columns("mnist sweep"):
        return Printed(math.nan, "no column of the paper's table")
    if not PAPER.title(table):
        return Printed(math.nan, "no row of the paper's table")
    return PAPER.printed(table, f"{eps:g}", column, detector.name)

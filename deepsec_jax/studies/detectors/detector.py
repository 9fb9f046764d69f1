"""One detector of a section, and its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepsec_jax.metrics import DETECTION_METRICS, Column, DetectionRecord, fpr_limits, summarise_detection
from deepsec_jax.runs.cells import CLEAN, Cell
from deepsec_jax.studies.paper_title import changed_settings
from deepsec_jax.tables import build, numbers
from deepsec_jax.tables.data_files import cell_record
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import Figure, Span

PAPER = Published("detectors")
_KEPT = ("folder", "fpr", "validation", "training")
_EMPTY = np.zeros(0, np.float32)

Scored = tuple[np.ndarray, np.ndarray]
"""Scores and success of attacked images [N]."""


@dataclass(frozen=True)
class Detector:
    """One detector of a section.

    Attributes:
        key: its settings and its digest.
        name: preset row, e.g. ``fs``.
        label: the paper's name, extended if not unique.
        about: ``detector`` of its configs.
        threshold: scores above it are flagged.
        clean: its cell of clean test images; None if missing.
        changed: settings that differ from the preset's.
    """

    key: str
    name: str
    label: str
    about: Mapping[str, Any]
    threshold: float
    clean: Cell | None
    changed: tuple[str, ...]

    @property
    def clean_scores(self) -> np.ndarray:
        """Scores of the clean test images [M]; empty if the cell failed or is missing."""
        return self._clean("scores")

    def _clean(self, name: str) -> np.ndarray:
        return _EMPTY if self.clean is None else self.clean.arrays.get(name, _EMPTY)

    def record(self, scores: np.ndarray = _EMPTY, success: np.ndarray = _EMPTY) -> DetectionRecord:
        """Return the record of metrics for attacked images with these scores."""
        return DetectionRecord(scores, success, self.clean_scores, self._clean("correct"), self.threshold)

    def rate(self, name: str) -> tuple[float, str]:
        """Return a figure over clean images, with its interval and n."""
        summary = summarise_detection(DETECTION_METRICS[name], self.record())
        return summary.mean, numbers.told(DETECTION_METRICS[name], summary)

    def limits(self) -> tuple[float, float] | None:
        """Return the 99 % interval of the FPR on clean images, for both samples; None without them."""
        if self.clean is None or self.clean.error is not None:
            return None
        known = self.clean.environment
        return fpr_limits(float(known["fpr"]), int(known["validation"]), len(self.clean_scores))

    def span(self, columns: Sequence[Column]) -> Span:
        """Return its columns of a table."""
        return Span(
            tuple(columns), self.label, self.key, f", threshold {self.threshold:.4g}",
            {"detector": self.label, "threshold": self.threshold},
        )  # fmt: skip


def key_of(cell: Cell) -> str:
    """Return the identity of a cell's detector."""
    return build.decided_by(
        {"detector": cell.config["detector"], "weights": cell.config["weights"]["detector"]}
    )


def detectors_of(cells: Sequence[Cell], dataset: str) -> list[Detector]:
    """Return the detectors of cells, in the paper's order."""
    found = [_detector(key, group, dataset) for key, group in build.grouped(cells, key_of).items()]
    found.sort(key=lambda each: PAPER.position(each.name))
    return [_told_apart(each, index, found) for index, each in enumerate(found)]


def _told_apart(detector: Detector, index: int, every: Sequence[Detector]) -> Detector:
    """Return the detector with a unique label, extended by folder or number."""
    alike = [other for other in every if other.label == detector.label]
    if len(alike) == 1:
        return detector
    folders = [other.clean.environment.get("folder", "") if other.clean else "" for other in alike]
    own = detector.clean.environment.get("folder", "") if detector.clean else ""
    which = own if own and folders.count(own) == 1 else index + 1
    return replace(detector, label=f"{detector.label} ({which})")


def _detector(key: str, cells: Sequence[Cell], dataset: str) -> Detector:
    config = cells[0].config
    about = config["detector"]
    channels = next((cell.environment["channels"] for cell in cells if "channels" in cell.environment), None)
    return Detector(
        key=key, name=str(about["name"]), label=PAPER.label(str(about["name"])), about=about,
        threshold=float(config["threshold"]), clean=next((c for c in cells if c.kind == CLEAN), None),
        changed=changed_settings(about, dataset, str(about["preset"]), channels),
    )  # fmt: skip


def figure_of(
    column: Column, detector: Detector, cell: Cell | None, images: Scored | None, printed: Printed, *,
    dataset: str, attack: str, note: str,
) -> Figure:  # fmt: skip
    """Return one figure.

    Args:
        column: of the figure.
        detector: the detector.
        cell: the cell of the attacked images; None if missing.
        images: their scores and success; None if the cell is missing or failed.
        printed: the paper's number.
        dataset: data set name.
        attack: preset row of the attack.
        note: reason why the section does not carry the paper's title.
    """
    if column.over == "clean":  # independent of the attack, also if its cell is missing
        images = (_EMPTY, _EMPTY)
    record = None if images is None else detector.record(*images)
    others = [Reason("another model or fit", note)] if note else []
    if detector.changed:
        others.append(Reason("other settings", f"{', '.join(detector.changed)}: not those of the preset."))
    return build.figure(
        column, None if record is None else summarise_detection(column, record),
        _absent(column, detector, record, cell), printed,
        (*others, *PAPER.reasons(dataset, attack, column.name, detector.name)), cell,
    )  # fmt: skip


def _absent(column: Column, detector: Detector, record: DetectionRecord | None, cell: Cell | None) -> str:
    """Return why a figure has no value; empty if it has one."""
    asked = detector.clean if column.over == "clean" else cell
    if asked is not None and asked.error is not None:
        return "failed"
    if asked is None or record is None:
        return "not measured"
    if column.over != "clean" and column.metric == "auc" and not len(record.clean):
        return "no clean scores"
    if column.over == "successful" and not bool((record.success >= 0.5).any()):
        return "no success"
    return "no value for any image"


def part_record(detector: Detector, cell: Cell | None, times: bool) -> dict[str, Any]:
    """Return the JSON record of a detector's part of a row, before its figures."""
    return {"detector": detector.label, **detector_cell(cell, times)}


def detector_cell(cell: Cell | None, times: bool) -> dict[str, Any]:
    """Return the JSON record of a detector's cell; empty if it is missing."""
    return {} if cell is None else cell_record(cell, times=times, kept=_KEPT)

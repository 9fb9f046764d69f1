"""A detector as tables show it, and one figure of it beside the printed one."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepsec_jax.evaluation import detection_published
from deepsec_jax.evaluation.paper_numbers import figure, interval
from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.evaluation.paper_title import changed_settings
from deepsec_jax.evaluation.published_file import Printed, Reason
from deepsec_jax.metrics import DETECTION_METRICS, Column, DetectionRecord, Summary, summarise_detection
from deepsec_jax.runs.cells import CLEAN, Cell

_NOTHING = Summary(math.nan, 0, math.nan, math.nan)
_EMPTY = np.zeros(0, np.float32)


@dataclass(frozen=True)
class DetectorHead:
    """One detector of a section.

    Attributes:
        key: tells it from others: its settings and its digest.
        name: preset row, e.g. ``fs``.
        label: the paper's name of it, with what tells it from another of that name.
        about: ``detector`` of its configs.
        threshold: the one threshold.
        clean: its cell of clean test images; None if it is not there.
        changed: settings that are not the preset's.
    """

    key: str
    name: str
    label: str
    about: dict[str, Any]
    threshold: float
    clean: Cell | None
    changed: tuple[str, ...]

    @property
    def clean_scores(self) -> np.ndarray:
        """Scores of the clean test images [M]; none if the cell failed or is not there."""
        return _array(self.clean, "scores")

    def record(self, scores: np.ndarray, success: np.ndarray) -> DetectionRecord:
        """Return what metrics look at for attacked images with these scores."""
        return DetectionRecord(
            scores, success, self.clean_scores, _array(self.clean, "correct"), self.threshold
        )


def key_of(cell: Cell) -> str:
    """Return what tells a cell's detector from others."""
    decided = {"detector": cell.config["detector"], "weights": cell.config["weights"]["detector"]}
    return json.dumps(decided, sort_keys=True)


def _array(cell: Cell | None, name: str) -> np.ndarray:
    return _EMPTY if cell is None else cell.arrays.get(name, _EMPTY)


def heads_of(cells: Sequence[Cell], dataset: str) -> list[DetectorHead]:
    """Return the detectors of cells, in the paper's order."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key_of(cell), []).append(cell)
    heads = [_head(key, group, dataset) for key, group in groups.items()]
    heads.sort(key=lambda head: detection_published.position(head.name))
    return [_told_apart(head, index, heads) for index, head in enumerate(heads)]


def _told_apart(head: DetectorHead, index: int, heads: Sequence[DetectorHead]) -> DetectorHead:
    """Return the detector with a label of its own: where two have one name, by folder or else by number."""
    alike = [other for other in heads if other.label == head.label]
    if len(alike) == 1:
        return head
    folders = [other.clean.environment.get("folder", "") if other.clean else "" for other in alike]
    own = head.clean.environment.get("folder", "") if head.clean else ""
    return replace(head, label=f"{head.label} ({own if own and folders.count(own) == 1 else index + 1})")


def _head(key: str, cells: Sequence[Cell], dataset: str) -> DetectorHead:
    config = cells[0].config
    about = config["detector"]
    clean = next((cell for cell in cells if cell.kind == CLEAN), None)
    channels = next((cell.environment["channels"] for cell in cells if "channels" in cell.environment), None)
    return DetectorHead(
        key=key, name=str(about["name"]), label=detection_published.label(str(about["name"])), about=about,
        threshold=float(config["threshold"]), clean=clean,
        changed=changed_settings(about, dataset, str(about["preset"]), channels),
    )  # fmt: skip


def entry_of(
    column: Column,
    head: DetectorHead,
    cell: Cell | None,
    images: tuple[np.ndarray, np.ndarray] | None,
    said: Printed,
    *,
    dataset: str,
    attack: str,
    note: str,
) -> Entry:
    """Return one figure.

    Args:
        column: what it is.
        head: the detector.
        cell: the cell of the attacked images; None if it is not there.
        images: their scores and success [N]; None if the cell is not there or failed.
        said: what the paper prints.
        dataset: data set name.
        attack: preset row of the attack.
        note: why the section does not carry the paper's title.
    """
    if column.over == "clean":  # the same whatever was attacked, and there even if the attack's cell is not
        images = (_EMPTY, _EMPTY)
    record = None if images is None else head.record(*images)
    summary = _NOTHING if record is None else summarise_detection(column, record)
    reasons: tuple[Reason, ...] = ()
    if summary.n and not said.absent:
        reasons = (
            *_own_reasons(note, head),
            *detection_published.reasons(dataset, attack, head.name, column.name),
        )
    absent = "" if summary.n else _absent(column, head, record, cell)
    return Entry(column=column, summary=summary, absent=absent, printed=said, reasons=reasons)


def _own_reasons(note: str, head: DetectorHead) -> tuple[Reason, ...]:
    found = [Reason("another model or fit", note)] if note else []
    if head.changed:
        found.append(Reason("other settings", f"{', '.join(head.changed)}: not those of the preset."))
    return tuple(found)


def _absent(column: Column, head: DetectorHead, record: DetectionRecord | None, cell: Cell | None) -> str:
    asked = head.clean if column.over == "clean" else cell
    if asked is not None and asked.error is not None:
        return "failed"
    if asked is None or record is None:
        return "not measured"
    if column.over != "clean" and column.metric == "auc" and not len(record.clean):
        return "no clean scores"
    if column.over == "successful" and not bool((record.success >= 0.5).any()):
        return "no success"
    return "no value for any image"


def rate_in_words(name: str, summary: Summary) -> str:
    """Return a figure with its interval and n, e.g. ``4.2 % (2.7-6.5) of n = 450``."""
    column = DETECTION_METRICS[name]
    return f"{figure(column, summary.mean)} ({interval(column, summary)}) of n = {summary.n}"

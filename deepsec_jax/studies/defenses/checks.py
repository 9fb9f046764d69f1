"""Checks of tables of defenses: inconsistent columns, failed trainings."""

from collections.abc import Mapping
from typing import Any

from deepsec_jax.runs.cells import ROBUSTNESS, UTILITY, Cell
from deepsec_jax.tables.checks import (
    GREY,
    Check,
    changed_settings,
    failed_cells,
    missing_values,
    model_findings,
)
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.silence import silence, silent_images
from deepsec_jax.tables.table import Row, Section, Table

OVERFITTING = 0.2
"""Largest normal difference of accuracy under one step and under many; more is catastrophic overfitting."""


def _who(cell: Cell) -> str:
    return str(cell.config["defense"]["name"]) if "defense" in cell.config else "undefended"


def _silences(section: Section) -> list[str]:
    """Return the numbers of images without an answer of a model; equal ones of several cells once."""
    found: list[str] = []
    for cell in section.cells:
        if cell.error is not None or cell.kind not in (UTILITY, ROBUSTNESS):
            continue
        who = _who(cell)
        if cell.kind == UTILITY:
            asked = [("undefended", "no_answer_raw", "clean images"), (who, "no_answer", "clean images")]
        else:
            knowledge = str(cell.config["knowledge"]).replace("_", "-")
            asked = [
                (who, "clean_no_answer", "clean images of the sample"),
                (who, "no_answer", f"{knowledge} images"),
            ]
        for name, array, what in asked:
            found += silence(name, silent_images(cell.arrays, array), len(cell.arrays["labels"]), what)
    return list(dict.fromkeys(found))


def _under_attack(table: Table) -> list[str]:
    """Return inconsistencies of rows under attack, and uninformative radii."""
    found = [f"{row.name}: {each.label}: {each.text}." for row in table.rows for each in row.findings]
    if table.fields["eps"] >= 0.5:
        found.append(
            f"ε = {digits(table.fields['eps'])} is {GREY} accuracy under attack says nothing about a model."
        )
    return found


def _training(row: Row) -> list[str]:
    """Return warnings about trainings: accuracy at chance, or robust to one step only."""
    cell = row.cells.get("")
    if cell is None or cell.error is not None:
        return []
    found = []
    classes = cell.arrays["probabilities_raw"].shape[1]
    clean = row.figures[""]["accuracy"].summary
    if clean.n and clean.low <= 1 / classes:
        found.append(
            f"{row.name}: accuracy {100 * clean.mean:.1f} % of n = {clean.n} is that of guessing among "
            f"{classes} classes: the training stayed there, see its curve."
        )
    kept = kept_epoch(cell.environment.get("training", {}))
    gap = kept.get("one_step", 0.0) - kept.get("validation", 0.0) if "one_step" in kept else 0.0
    if gap > OVERFITTING:
        found.append(
            f"{row.name}: in the epoch that was kept, accuracy is {100 * kept['one_step']:.1f} % under one "
            f"step and {100 * kept['validation']:.1f} % under many: catastrophic overfitting, see its curve."
        )
    return found


def kept_epoch(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the history's entry of the kept epoch; empty if there is none."""
    for entry in training.get("history", ()):
        if entry.get("epoch") == training.get("best_epoch"):
            return dict(entry)
    return {}


def _threats(section: Section) -> list[Table]:
    return [table for table in section.tables if table.kind == "robustness"]


CHECKS = (
    failed_cells(),
    changed_settings(),
    model_findings(_who),
    Check(_silences),
    Check(lambda section: [text for table in _threats(section) for text in _under_attack(table)],
          "no white-box accuracy above the replayed one, no adaptive accuracy above either",
          lambda section: bool(_threats(section))),
    Check(lambda section: [text for row in section.rows("utility") for text in _training(row)],
          "no model at chance, none that is robust to one step only",
          lambda section: any(row.cells for row in section.rows("utility"))),
    missing_values("utility", "robustness"),
)  # fmt: skip

"""What a reader must know before trusting tables of defenses, found in the figures themselves."""

from collections.abc import Mapping
from typing import Any

from deepsec_jax.evaluation.defense_table import DefenseRow, DefenseSection
from deepsec_jax.evaluation.gaps import failures, findings_of, lacking
from deepsec_jax.evaluation.robust_table import ThreatTable
from deepsec_jax.evaluation.silence import silence, silent_images
from deepsec_jax.runs.cells import ROBUSTNESS, UTILITY, Cell

OVERFITTING = 0.2
"""Accuracy under one step may be above that under many by so much; more is catastrophic overfitting."""


def defense_warnings(section: DefenseSection) -> list[str]:
    """Return one sentence per finding: failed cells, orders that cannot be, trainings that went wrong."""
    changed = [
        f"{row.name}: {', '.join(row.changed)} differ from the {section.preset} preset."
        for row in section.rows
        if row.changed
    ]
    under = [text for threat in section.threats for text in _under_attack(threat)]
    trained = [text for row in section.rows for text in _training(row)]
    findings = findings_of(section.cells, _who)
    models = [*changed, *findings, *_silences(section)]
    return [*failures(section.cells), *models, *under, *trained, *_absences(section)]


def _who(cell: Cell) -> str:
    return str(cell.config["defense"]["name"]) if "defense" in cell.config else "undefended"


def _silences(section: DefenseSection) -> list[str]:
    """Return on how many images a model gives no answer; what several cells say alike is said once."""
    found: list[str] = []
    for cell in section.cells:
        if cell.error is not None or cell.kind not in (UTILITY, ROBUSTNESS):
            continue
        who = _who(cell)
        if cell.kind == UTILITY:
            asked = [("undefended", "no_answer_raw", "clean images"), (who, "no_answer", "clean images")]
        else:
            access = str(cell.config["access"]).replace("_", "-")
            asked = [
                (who, "clean_no_answer", "clean images of the sample"),
                (who, "no_answer", f"{access} images"),
            ]
        for name, array, what in asked:
            found += silence(name, silent_images(cell.arrays, array), len(cell.arrays["labels"]), what)
    return list(dict.fromkeys(found))


def _under_attack(threat: ThreatTable) -> list[str]:
    found = [f"{row.name}: {flag.label}: {flag.text}." for row in threat.rows for flag in row.flags]
    if threat.eps >= 0.5:
        found.append(
            f"ε = {threat.eps:g} is 0.5 or more; at that radius any image can be made plain grey, so "
            "accuracy under attack says nothing about a model."
        )
    return found


def _training(row: DefenseRow) -> list[str]:
    """Return what a training's record says: a model at chance, or robust to one step only."""
    if row.cell is None or row.cell.error is not None:
        return []
    found = []
    classes = row.cell.arrays["probabilities_raw"].shape[1]
    clean = row.entries["accuracy"].summary
    if clean.n and clean.low <= 1 / classes:
        found.append(
            f"{row.name}: accuracy {100 * clean.mean:.1f} % of n = {clean.n} is that of guessing among "
            f"{classes} classes: the training never left it, see its curve."
        )
    training = row.cell.environment.get("training", {})
    kept = kept_epoch(training)
    gap = kept.get("one_step", 0.0) - kept.get("validation", 0.0) if "one_step" in kept else 0.0
    if gap > OVERFITTING:
        found.append(
            f"{row.name}: in the epoch that was kept, accuracy is {100 * kept['one_step']:.1f} % under one "
            f"step and {100 * kept['validation']:.1f} % under many: catastrophic overfitting, see its curve."
        )
    return found


def kept_epoch(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the history's entry of the epoch that was kept; empty if the training has none."""
    for entry in training.get("history", ()):
        if entry.get("epoch") == training.get("best_epoch"):
            return dict(entry)
    return {}


def _absences(section: DefenseSection) -> list[str]:
    """Return why figures are n/a, one line for the defenses and columns that lack them for one reason."""
    rows: list[Any] = [*section.rows, *(row for threat in section.threats for row in threat.rows)]
    told = ("failed", "no defense", "cannot reject")
    shown = ((row.name, [e for e in row.entries.values() if e.absent not in told]) for row in rows)
    return [
        f"{titles}: n/a, n = 0 ({reason}) for {', '.join(dict.fromkeys(names))}."
        for (reason, titles), names in lacking(shown).items()
    ]


def sound(section: DefenseSection) -> str:
    """Return what was looked for, for a page that has found none of it."""
    said = ["no failed cell and no empty figure"]
    if any(row.cell is not None for row in section.rows):
        said.append("no model at chance, none that is robust to one step only")
    if section.threats:
        said.append("no white-box accuracy above the replayed one, no adaptive accuracy above either")
    return ", ".join(said)

"""Checks of a table of attacks: uninformative radii, rounding, weak attacks above strong ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.catalog import Card
from deepsec_jax.studies.model_words import not_adaptive
from deepsec_jax.tables.build import name_of
from deepsec_jax.tables.checks import GREY, Check, failed_cells, missing_values, model_findings
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.silence import silence, silent_images
from deepsec_jax.tables.table import Row, Section

_TOLERANCE = 0.01  # one point: a normal difference


class Judged(NamedTuple):
    """The input of the checks for one attack.

    Attributes:
        attack: name of the preset row.
        hyperparameters: field -> plain value.
        n: number of images attacked.
        success: share of n that succeeded.
        success_8bit: the same after rounding to 8 bits; NaN if it was not measured.
        no_answer: number of images without an answer of the model.
    """

    attack: str
    hyperparameters: dict[str, Any]
    n: int
    success: float
    success_8bit: float
    no_answer: int = 0


def spoiled(rows: Sequence[Judged]) -> list[str]:
    """Return warnings about misleading figures of attacks, one sentence each."""
    found = []
    for row in rows:
        found += silence(row.attack, row.no_answer, row.n, "adversarial images")
        eps = row.hyperparameters.get("eps")
        norm = row.hyperparameters.get("norm", "linf")
        if norm == "linf" and isinstance(eps, int | float) and eps >= 0.5:
            found.append(f"{row.attack}: eps = {digits(eps)} is {GREY} success says nothing about the model.")
        lost = row.success - row.success_8bit
        if round(lost, 6) >= _TOLERANCE:
            found.append(
                f"{row.attack}: success falls by {100 * lost:.1f} points, from {_percent(row.success)} to "
                f"{_percent(row.success_8bit)} of n = {row.n}, when the images are rounded to 8 bits."
            )
    for weak in rows:
        for strong in rows:
            if _comparable(weak, strong) and weak.success > strong.success + _TOLERANCE:
                found.append(
                    f"{weak.attack} ({_percent(weak.success)}) is ahead of {strong.attack} "
                    f"({_percent(strong.success)}, both of n = {strong.n}) at the same eps, though it is "
                    "the weaker attack: look for masked gradients, or give the stronger one more steps."
                )
    return found


def _comparable(weak: Judged, strong: Judged) -> bool:
    def budget(row: Judged) -> tuple[Any, Any]:
        return row.hyperparameters.get("eps"), row.hyperparameters.get("norm", "linf")

    card = _card_of(strong.attack)
    below = () if card is None else card.stronger_than
    return weak.attack.partition("@")[0] in below and budget(weak) == budget(strong) and weak.n == strong.n


def _card_of(row: str) -> Card | None:
    """Return the card of a preset row's attack; None for an unknown one."""
    return getattr(ATTACKS.get(row.partition("@")[0]), "card", None)


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{100 * share:.1f} %"


def _finished(section: Section) -> list[Row]:
    return [row for row in section.rows("rows") if row.error is None]


def _judged(row: Row) -> Judged:
    cell, rounded = row.cells[""], row.cells[""].columns.get("mr_8bit")
    return Judged(
        row.name, dict(cell.config["attack"].get("hyperparameters", {})), row.n,
        float(cell.arrays["success"].mean()) if row.n else math.nan,
        math.nan if rounded is None or not row.n else float(np.mean(rounded)),
        silent_images(cell.arrays),
    )  # fmt: skip


def _unbounded(row: Row) -> str:
    card = _card_of(row.name)
    if card is None or not card.unbounded or row.hits == row.n:
        return ""
    return (
        f"{row.name}: success {100 * (row.hits or 0) / row.n:.1f} % of n = {row.n}, though nothing bounds "
        "its distance: an unbounded attack that fails is broken or stopped too early."
    )


def _not_adaptive(section: Section) -> list[str]:
    model = section.cells[0].config.get("model") if section.cells else None
    return not_adaptive(model) if isinstance(model, Mapping) else []


MISSING = missing_values("rows", every="every attack")

CHECKS = (
    failed_cells("the table lacks"),
    Check(_not_adaptive),
    model_findings(lambda cell: name_of(cell.config["model"])),
    Check(lambda section: spoiled([_judged(row) for row in _finished(section)]),
          "no radius of 0.5 or more, no weaker attack ahead of a stronger one, less than one point of "
          "success "
          "lost by rounding to 8 bits"),
    Check(lambda section: [text for row in _finished(section) if (text := _unbounded(row))],
          "no unbounded attack under 100 %"),
    MISSING,
)  # fmt: skip

"""One row of the transferability study: an attack on one model, with its figures on every model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.attacks.tables import goal_and_objective
from deepsec_jax.studies.remarks.claims import means, resampled
from deepsec_jax.studies.transferability.columns import ACAC, COLUMNS, MR, WRONG, WRONG_ALL
from deepsec_jax.studies.transferability.jobs import STEPS
from deepsec_jax.tables import build
from deepsec_jax.tables.data_files import cell_record
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import Figure, Row

PAPER = Published("transferability")
ORIGINAL, AVERAGE = "original", "average"
"""Keys of the spans of the original model and of the mean over the others."""

Figures = dict[str, dict[str, Figure]]
"""Span -> column -> figure."""


@dataclass(frozen=True)
class Source:
    """One attack on one model, with its images on other models.

    Attributes:
        cell: of the attack.
        on: name of a model -> cell of the images on it.
    """

    cell: Cell
    on: Mapping[str, Cell]

    @property
    def attack(self) -> str:
        """Name of the attack's preset row."""
        return str(self.cell.config["attack"]["name"])

    @property
    def model(self) -> str:
        """Name of the attacked model."""
        return build.name_of(self.cell.config["model"])

    @property
    def success(self) -> np.ndarray:
        """Success on the attacked model, [N]; empty if the attack failed."""
        return np.asarray(self.cell.arrays.get("success", np.zeros(0)))


@dataclass(frozen=True)
class Rows:
    """Makes the rows of one section.

    Attributes:
        original: name of the original model.
        others: names of the other models.
        about: name of a model -> its entries in a config.
        dataset: name of the data set.
        preset: kind of the attacks' presets.
        note: why the section does not carry the paper's title.
    """

    original: str
    others: tuple[str, ...]
    about: Mapping[str, Mapping[str, Any]]
    dataset: str
    preset: str
    note: str

    def place(self, name: str) -> str:
        """Return the paper's key of a model, ``model1``, or its own name."""
        recipe = str(dict(self.about.get(name, {}).get("recipe") or {}).get("name"))
        prefix = f"{self.dataset}-model"
        return f"model{recipe[len(prefix)]}" if recipe.startswith(prefix) else name

    def label(self, name: str) -> str:
        """Return the heading of a model."""
        place = self.place(name)
        return f"Model {place[-1]}" if place != name else name

    def row(self, source: Source, kind: str) -> Row:
        """Return the row of an attack in the table ``transfer``, ``matrix`` or ``effort``."""
        cell, name, success = source.cell, source.attack, source.success
        goal, objective = goal_and_objective(cell, name)
        effort = _effort(cell, name)
        group: tuple[str, ...] = (goal, objective)
        label = PAPER.label(name)
        if kind == "matrix":
            group, label = (label, "targeted" if goal == "TAs" else "untargeted"), source.model
        elif kind == "effort":
            group = (PAPER.label(name.partition("@")[0]), "steps" if STEPS in name else "confidence κ")
            label = f"{effort:g}"
        figures = self._figures(source, targeted=goal == "TAs")
        n, hits = len(success) or int(cell.config["n"]), int((success >= 0.5).sum())
        fields = {"attack": name, "source": source.model, "goal": goal, "objective": objective}
        printed = kind == "transfer" and self.preset == "paper"
        return Row(
            key=f"{kind} {source.model} {name}", name=name, label=label, group=group, n=n, hits=hits,
            base=f"{n}/{hits}", error=cell.error, cells={"": cell, **source.on}, figures=figures,
            printed_n=PAPER.examples(self.dataset, name) if printed else None, fields=fields,
            record={**fields, "n": n, "hits": hits, "effort": effort},
            records={key: {"target": key, **self._record(source, key)} for key in figures},
        )  # fmt: skip

    def _record(self, source: Source, key: str) -> dict[str, Any]:
        """Return the JSON record of the cell behind a span; empty without one."""
        name = self.original if key == ORIGINAL else key
        cell = source.cell if name == source.model else source.on.get(name)
        return {} if cell is None else cell_record(cell, times=False, kept=())

    def _figures(self, source: Source, *, targeted: bool) -> Figures:
        """Return the figures on all models, and their mean over the others."""
        found: Figures = {}
        for name in (self.original, *self.others):
            key = ORIGINAL if name == self.original else name
            cell = source.cell if name == source.model else source.on.get(name)
            found[key] = {
                column.name: self._figure(column, cell, source, name, targeted=targeted) for column in COLUMNS
            }
        found[AVERAGE] = {
            column.name: self._average(column, source, found, targeted=targeted) for column in COLUMNS
        }
        return found

    def _figure(
        self, column: Column, cell: Cell | None, source: Source, name: str, *, targeted: bool
    ) -> Figure:
        itself = name == source.model
        absent = _absent(column, cell, source, targeted=targeted, itself=itself)
        values = None
        if cell is not None and not absent:
            values = _own(column, cell) if itself else np.asarray(column.values(cell))
        summary = None if values is None else summarise(column, values, source.success)
        place = ORIGINAL if name == self.original else self.place(name)
        return self._built(column, summary, absent, source, place, cell)

    def _average(self, column: Column, source: Source, each: Figures, *, targeted: bool) -> Figure:
        """Return the mean over the other models: shares image by image, of ACAC the models' means.

        The interval of the latter is over resampled images.
        """
        cells = [source.on[name] for name in self.others if name in source.on]
        absent = "" if len(cells) == len(self.others) else "not measured"
        for cell in cells:
            absent = absent or _absent(column, cell, source, targeted=targeted, itself=False)
        summary: Summary | None = None
        if not absent and column is ACAC:
            found = [each[name][column.name].summary for name in self.others]
            if all(one.n for one in found):
                over = source.success >= 0.5
                weights = resampled(len(over))
                drawn = np.mean([means(weights, column.values(cell), over) for cell in cells], axis=0)
                low, high = np.nanquantile(drawn[1:], (0.025, 0.975))
                summary = Summary(float(drawn[0]), min(one.n for one in found), float(low), float(high))
        elif not absent:
            values = np.mean([np.asarray(column.values(cell)) for cell in cells], axis=0)
            summary = summarise(column, values, source.success)
        return self._built(column, summary, absent, source, AVERAGE, None)

    def _built(
        self, column: Column, summary: Summary | None, absent: str, source: Source, place: str,
        cell: Cell | None,
    ) -> Figure:  # fmt: skip
        another = (Reason("another model", self.note),) if self.note else ()
        reasons = (*another, *PAPER.reasons(self.dataset, source.attack, column.name, place))
        printed = PAPER.printed(self.dataset, source.attack, column.name, place)
        if self.preset != "paper" and PAPER.title(self.dataset):
            printed = Printed(math.nan, f"the paper has no {self.preset} attacks")
        if source.model != self.original or not (place in (ORIGINAL, AVERAGE) or place.startswith("model")):
            printed = Printed(math.nan, "the paper has no such model")
        return build.figure(column, summary, absent or "none transferred", printed, reasons, cell)


def _effort(cell: Cell, name: str) -> float:
    """Return the number of steps or the confidence of an attack of the curves, otherwise 0."""
    used = cell.config["attack"].get("hyperparameters", {})
    if STEPS in name:
        return float(used.get("steps", 0))
    return float(used.get("confidence", 0.0)) if name.partition("@")[0] == "cw2" else 0.0


def _absent(column: Column, cell: Cell | None, source: Source, *, targeted: bool, itself: bool) -> str:
    """Return why a figure has no value; empty if it has one."""
    if source.cell.error is not None or (cell is not None and cell.error is not None):
        return "failed"
    if cell is None:
        return "not measured"
    if column in (WRONG, WRONG_ALL) and not targeted:
        return "as MR" if column is WRONG else "as of all n"
    if itself and column in (MR, WRONG):
        return "100 % by definition"
    if column.over == "successful" and not bool((source.success >= 0.5).any()):
        return "no success"
    return ""


def _own(column: Column, cell: Cell) -> np.ndarray:
    """Return the values of the attack on its own model."""
    arrays = cell.arrays
    if column is ACAC:
        return np.asarray(cell.columns.get("acac", arrays["confidence"]), np.float64)
    if column is WRONG_ALL:
        wrong = (arrays["predicted"] != arrays["labels"]) & (arrays["predicted"] >= 0)
        return np.asarray(wrong, np.float64)
    return np.asarray(arrays["success"], np.float64)

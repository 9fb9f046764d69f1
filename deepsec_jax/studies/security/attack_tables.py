"""The tables of attacks: replayed as in the paper, white-box and adaptive."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, WHITE_BOX
from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.attacks.tables import PAPER as ATTACKS
from deepsec_jax.studies.attacks.tables import goal_and_objective
from deepsec_jax.studies.security.model import HITS, PAPER, ROBUST, Model, attack_label
from deepsec_jax.tables import build
from deepsec_jax.tables.data_files import cell_record
from deepsec_jax.tables.published import Printed, Reason
from deepsec_jax.tables.table import Figure, Row, Span, Table

KEPT = ("folder",)

INTRO = {
    REPLAYED: "Images made on the undefended model, replayed on each defended model, as in the paper. Such "
              "images need not fool another network: this table measures transfer and is no security claim.",
    WHITE_BOX: "Images made on the defended model itself. A model that hides its gradient looks strong here.",
    ADAPTIVE: "Images made through the surrogate that the defense names for its own gradient.",
}  # fmt: skip


@dataclass(frozen=True)
class Maker:
    """Makes the tables of attacks of one section."""

    models: Sequence[Model]
    sources: Mapping[str, Cell]
    dataset: str
    preset: str
    note: str
    times: bool

    def attacks(self, knowledge: str, title: str) -> Table:
        """Return the table of one kind of knowledge: a row per attack, a span per defense."""
        columns = (HITS,) if knowledge == REPLAYED else (ROBUST,)
        every = (name for model in self.models for kind, name in model.cells if kind == knowledge)
        names = list(dict.fromkeys(every))
        rows = [self._row(knowledge, name, columns) for name in names]
        rows.sort(key=lambda row: (row.group[0] != "UAs", ATTACKS.position(row.name)))
        rows = [row for group in build.grouped(rows, lambda row: row.group).values() for row in group]
        words = knowledge.replace("_", "-")
        return Table(
            kind=knowledge, title=title, about=words, heading="Attack", note=self.note,
            base="n/hits" if knowledge == REPLAYED else "n",
            rows=tuple(rows),
            spans=tuple(Span(columns, model.label, model.key, fields={"defense": model.label})
                        for model in self.models),
            further=(ROBUST,) if knowledge == REPLAYED else (), parts="defenses", intro=INTRO[knowledge],
            page_title=f"{words.capitalize()} attacks", fields={"table": knowledge},
            caption=f" ({words}). Per attack: our share, its 95\N{NARROW NO-BREAK SPACE}% interval, and the "
                    "number printed in the paper.",
        )  # fmt: skip

    def _row(self, knowledge: str, name: str, columns: Sequence[Column]) -> Row:
        source = self.sources.get(name)
        success = np.zeros(0) if source is None else source.arrays.get("success", np.zeros(0))
        replayed = knowledge == REPLAYED
        n, hits = len(success), int((success >= 0.5).sum())
        if not replayed:  # the attack is on the defended models, some perhaps with fewer images
            made = (cell for model in self.models if (cell := model.cells.get((knowledge, name))) is not None)
            n = max((int(cell.config["n"]) for cell in made), default=n)
        asked = (model.cells.get((knowledge, name)) for model in self.models)
        known = source or next(cell for cell in asked if cell is not None)
        goal, objective = goal_and_objective(known, name)
        label = attack_label(name)
        cells = {
            model.key: cell
            for model in self.models
            if (cell := model.cells.get((knowledge, name))) is not None
        }
        examples = PAPER.examples(self.dataset, name) if self.preset == "paper" else None
        every = (*columns, ROBUST)
        return Row(
            key=f"{knowledge} {name}", name=name, label=label, group=(goal, objective), n=n,
            hits=hits if replayed else None, base=f"{n}/{hits}" if replayed else str(n), cells=cells,
            printed_n=examples if replayed else None,
            fields={"attack": name, "goal": goal, "objective": objective},
            figures={
                model.key: {
                    column.name: self._figure(column, knowledge, name, model, success) for column in every
                }
                for model in self.models
            },
            record={
                "attack": name, "label": label, "goal": goal, "objective": objective, "n": n,
                **({"hits": hits} if replayed else {}),
            },
            records={
                model.key: {
                    "defense": model.label,
                    **({} if model.key not in cells
                       else cell_record(cells[model.key], times=self.times, kept=KEPT)),
                }
                for model in self.models
            },
        )  # fmt: skip

    def _figure(self, column: Column, knowledge: str, name: str, model: Model, success: np.ndarray) -> Figure:
        cell = model.cells.get((knowledge, name))
        values, absent = None, self._absent(knowledge, name, model, cell)
        if cell is not None and not absent:
            values = np.asarray(column.values(cell))
        if values is not None:  # a cell of fewer images has the first ones
            success = success[: len(values)] if column is HITS else np.ones(len(values))
        if column is HITS and not absent and not bool((success >= 0.5).any()):
            values, absent = None, "no success"
        printed = Printed(math.nan, "the paper has no such column")
        if column is HITS:
            printed = PAPER.printed(self.dataset, name, HITS.name, model.name)
            if self.preset != "paper":
                printed = Printed(math.nan, f"the paper has no {self.preset} attacks")
        summary = None if values is None else summarise(column, values, success)
        another = (Reason("another model or fit", self.note),) if self.note else ()
        reasons = (*another, *PAPER.reasons(self.dataset, name, column.name, model.name))
        return build.figure(column, summary, absent, printed, reasons, cell)

    def _absent(self, knowledge: str, name: str, model: Model, cell: Cell | None) -> str:
        if cell is not None and cell.error is not None:
            return "failed"
        if cell is not None and cell.environment.get("zero_gradient"):
            return "zero gradient"
        if cell is None and knowledge == ADAPTIVE and (WHITE_BOX, name) in model.cells:
            return "as white-box"
        return "" if cell is not None else "not measured"

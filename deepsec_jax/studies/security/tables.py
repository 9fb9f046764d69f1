"""Every attack against every defense: the paper's Tables XV and V, white-box, adaptive, and the worst case.

Cells with the same undefended model, data, candidates and preset are one section, so all figures are over the
same images.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepsec_jax.defenses import DEFENSES as KNOWN
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, UNDEFENDED, WHITE_BOX
from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import ATTACK, SECURITY, Cell
from deepsec_jax.studies.attacks.tables import PAPER as ATTACKS
from deepsec_jax.studies.attacks.tables import goal_and_objective
from deepsec_jax.studies.defenses.robustness import defense_key
from deepsec_jax.studies.paper_title import Used, changed_hyperparameters, changed_settings, why_untitled
from deepsec_jax.studies.security import details
from deepsec_jax.studies.security.cells import distances
from deepsec_jax.studies.security.gate import Gate
from deepsec_jax.studies.security.gates import gates
from deepsec_jax.studies.security.indicated import KIND as INDICATORS
from deepsec_jax.studies.security.jobs import jobs
from deepsec_jax.studies.security.options import Options
from deepsec_jax.studies.security.worst import Threat, robust, usual_threats, worst_case
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.checks import Check, failed_cells, model_findings
from deepsec_jax.tables.data_files import cell_record
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import Figure, Row, Section, Span, Table

PAPER = Published("security")
KEPT = ("folder",)


def _right(cell: Cell) -> np.ndarray:
    return cell.arrays["right_or_rejected"].astype(np.float64)


HITS = Column(
    "replayed_hits", "robust", "On hits", "share of the images that fool the undefended model on which this "
    "model is correct or rejects", "IV-C", "share", "higher", "successful", _right, rate=True,
)  # fmt: skip
ROBUST = Column(
    "robust", "robust", "Robust", "share of all n images on which the model is correct or rejects", "ours",
    "share", "higher", "all", robust, rate=True,
)  # fmt: skip
CLEAN = replace(ROBUST, name="clean", title="Clean", formula="share of the n clean images that are correct")

INTRO = {
    REPLAYED: "Images made on the undefended model, replayed on each defended model, as in the paper. Such "
              "images need not fool another network: this table measures transfer and is no security claim.",
    WHITE_BOX: "Images made on the defended model itself. A model that hides its gradient looks strong here.",
    ADAPTIVE: "Images made through the surrogate that the defense names for its own gradient.",
}  # fmt: skip
WORST_INTRO = (
    "The share of images that survive every attack, with any knowledge, whose change is within the radius. "
    "It is taken image by image, never as an average over attacks. A figure that fails a gate is struck "
    "through: it may not be called robust accuracy. The gate says why."
)


@dataclass(frozen=True)
class Model:
    """One model of a section.

    Attributes:
        key: its settings and weights; empty for the undefended model.
        name: preset row of its defense.
        label: the paper's name.
        cells: (access, attack row) -> cell.
        gates: findings about its figures.
    """

    key: str
    name: str
    label: str
    cells: Mapping[tuple[str, str], Cell]
    gates: tuple[Gate, ...] = ()


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group the cells into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones; attacks on the undefended model belong to the cells that replay them.
        times: whether to keep values that depend on the clock and the machine's load.
    """
    every = list(cells)
    groups = build.grouped((cell for cell in every if cell.kind in (SECURITY, INDICATORS)), _shared)
    raw = build.grouped((cell for cell in every if cell.kind == ATTACK), _shared)
    return [
        _section(group, raw.get(key, []), times)
        for key, group in groups.items()
        if any(cell.kind == SECURITY for cell in group)
    ]


def _shared(cell: Cell) -> str:
    names = ("data", "model", "n", "seed", "candidates", "images")
    decided = {name: cell.config.get(name) for name in names}
    return build.decided_by({**decided, "preset": cell.config["attack"]["preset"]})


def _section(cells: Sequence[Cell], raw: Sequence[Cell], times: bool) -> Section:
    attacked = [cell for cell in cells if cell.kind == SECURITY]
    config = attacked[0].config
    dataset, base = build.name_of(config["data"]), build.name_of(config["model"])
    preset, n = str(config["attack"]["preset"]), int(config["n"])
    sources = {str(cell.config["attack"]["name"]): cell for cell in raw}
    channels = next((cell.arrays["x"].shape[3] for cell in raw if cell.error is None), 1)
    threats = usual_threats(channels)
    classes = next((cell.arrays["probabilities"].shape[1] for cell in raw if cell.error is None), 10)
    signs = {_defense_of(cell): cell for cell in cells if cell.kind == INDICATORS and cell.error is None}
    models = _models(attacked, signs, threats, n, classes)
    note = _why_untitled(attacked, dataset, preset)
    title = f"Attacks against defenses of {base}, {dataset}, {preset} settings" if note else (
        f"{PAPER.title(dataset)} and ours"
    )  # fmt: skip
    finished = {(UNDEFENDED, name): _as_security(cell) for name, cell in sources.items()}
    undefended = Model(
        "", UNDEFENDED, "Undefended", finished,
        tuple(gates({place: cell for place, cell in finished.items() if cell.error is None}, threats, n,
                    classes, signs.get(""))) if finished else (),
    )  # fmt: skip
    made = _Maker(models, undefended, sources, dataset, preset, note, times)
    tables = [made.attacks(access, title) for access in (REPLAYED, WHITE_BOX, ADAPTIVE)]
    return Section(
        title=title, note=note, fields={"data": dataset, "base": base, "preset": preset},
        tables=(*(table for table in tables if table.rows), made.worst(threats, title, n)),
        cells=(*raw, *cells), kinds=(REPLAYED, WHITE_BOX, ADAPTIVE, "worst"), explained=HITS.name,
        subjects=(undefended, *models),
        facts=build.facts(cells, {
            "Hyperparameters": f"{preset} settings of attacks",
            "Candidates": f"n = {n}, test images that the undefended model classifies correctly, seed "
                          f"{config['seed']}; the same for all models",
        }, times=times),
        missing={} if preset != "paper" or not PAPER.rows(dataset) else {
            **build.missing(ATTACKS, PAPER.rows(dataset), sources, PAPER.rows(dataset)),
            **build.missing(PAPER, PAPER.labels(), {m.name.partition("@")[0] for m in models}, KNOWN),
        },
    )  # fmt: skip


def _defense_of(cell: Cell) -> str:
    """Return the key of a cell's defense; empty for the undefended model."""
    return defense_key(cell) if "defense" in cell.config else ""


def _models(
    cells: Sequence[Cell], signs: Mapping[str, Cell], threats: Sequence[Threat], n: int, classes: int
) -> list[Model]:
    found = []
    for key, group in build.grouped(cells, defense_key).items():
        name = str(group[0].config["defense"]["name"])
        by = {(str(cell.config["access"]), str(cell.config["attack"]["name"])): cell for cell in group}
        finished = {place: cell for place, cell in by.items() if cell.error is None}
        found.append(
            Model(
                key, name, PAPER.label(name), by, tuple(gates(finished, threats, n, classes, signs.get(key)))
            )
        )
    found.sort(key=lambda model: PAPER.position(model.name))
    labels = [model.label for model in found]
    return [
        replace(model, label=f"{model.label} ({index + 1})") if labels.count(model.label) > 1 else model
        for index, model in enumerate(found)
    ]


def _why_untitled(cells: Sequence[Cell], dataset: str, preset: str) -> str:
    config = cells[0].config
    kinds = sorted({str(cell.config["defense"]["preset"]) for cell in cells})
    changed = {
        PAPER.label(str(cell.config["defense"]["name"])): None
        for cell in cells
        if kinds == ["paper"] and changed_settings(cell.config["defense"], dataset, "paper", None)
    }
    attacks = {
        ATTACKS.label(str(cell.config["attack"]["name"])): None
        for cell in cells
        if preset == "paper"
        and str(cell.config["attack"]["name"]) in PAPER.rows(dataset)
        and changed_hyperparameters(cell.config["attack"], dataset, preset)
    }
    used = Used(
        dataset, config["model"], config["images"],
        {"the attacks are of preset": preset, "the defenses are of preset": ", ".join(kinds)},
        {"settings of": tuple(changed), "hyperparameters of": tuple(attacks)},
    )  # fmt: skip
    return why_untitled(PAPER, used)


@dataclass(frozen=True)
class _Maker:
    """Makes the tables of one section."""

    models: Sequence[Model]
    undefended: Model
    sources: Mapping[str, Cell]
    dataset: str
    preset: str
    note: str
    times: bool

    def attacks(self, access: str, title: str) -> Table:
        """Return the table of one kind of knowledge: a row per attack, a span per defense."""
        columns = (HITS,) if access == REPLAYED else (ROBUST,)
        every = (name for model in self.models for kind, name in model.cells if kind == access)
        names = list(dict.fromkeys(every))
        rows = [self._row(access, name, columns) for name in names]
        rows.sort(key=lambda row: (row.group[0] != "UAs", ATTACKS.position(row.name)))
        rows = [row for group in build.grouped(rows, lambda row: row.group).values() for row in group]
        words = access.replace("_", "-")
        return Table(
            kind=access, title=title, about=words, heading="Attack", base="n/hits", note=self.note,
            rows=tuple(rows),
            spans=tuple(Span(columns, model.label, model.key, fields={"defense": model.label})
                        for model in self.models),
            further=(ROBUST,) if access == REPLAYED else (), parts="defenses", intro=INTRO[access],
            page_title=f"{words.capitalize()} attacks", fields={"table": access},
            caption=f" ({words}). Per attack: our share, its 95\N{NARROW NO-BREAK SPACE}% interval, and the "
                    "number printed in the paper.",
        )  # fmt: skip

    def _row(self, access: str, name: str, columns: Sequence[Column]) -> Row:
        source = self.sources.get(name)
        success = np.zeros(0) if source is None else source.arrays.get("success", np.zeros(0))
        n, hits = len(success), int((success >= 0.5).sum())
        asked = (model.cells.get((access, name)) for model in self.models)
        known = source or next(cell for cell in asked if cell is not None)
        goal, objective = goal_and_objective(known, name)
        label = ATTACKS.label(name)
        cells = {
            model.key: cell for model in self.models if (cell := model.cells.get((access, name))) is not None
        }
        examples = PAPER.examples(self.dataset, name) if self.preset == "paper" else None
        every = (*columns, ROBUST)
        return Row(
            key=f"{access} {name}", name=name, label=label, group=(goal, objective), n=n, hits=hits,
            base=f"{n}/{hits}", cells=cells, printed_n=examples if access == REPLAYED else None,
            fields={"attack": name, "goal": goal, "objective": objective},
            figures={
                model.key: {
                    column.name: self._figure(column, access, name, model, success) for column in every
                }
                for model in self.models
            },
            record={
                "attack": name, "label": label, "goal": goal, "objective": objective, "n": n, "hits": hits
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

    def _figure(self, column: Column, access: str, name: str, model: Model, success: np.ndarray) -> Figure:
        cell = model.cells.get((access, name))
        values, absent = None, self._absent(access, name, model, cell)
        if cell is not None and not absent:
            values = np.asarray(column.values(cell))
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

    def _absent(self, access: str, name: str, model: Model, cell: Cell | None) -> str:
        if cell is not None and cell.error is not None:
            return "failed"
        if cell is not None and cell.environment.get("zero_gradient"):
            return "zero gradient"
        if cell is None and access == ADAPTIVE and (WHITE_BOX, name) in model.cells:
            return "as white-box"
        return "" if cell is not None else "not measured"

    def worst(self, threats: Sequence[Threat], title: str, n: int) -> Table:
        """Return the table of the worst case: a row per model, a column per radius."""
        return Table(
            kind="worst", title=title, about="worst case", heading="Model", note=self.note,
            rows=tuple(self._worst_row(model, threats, n) for model in (self.undefended, *self.models)),
            spans=(Span((CLEAN, *map(_column, threats))),),
            page_title="Worst case", intro=WORST_INTRO, fields={"table": "worst"},
            caption=" (worst case). Per model: share of images that survive all attacks within the radius.",
        )  # fmt: skip

    def _worst_row(self, model: Model, threats: Sequence[Threat], n: int) -> Row:
        cells = list(model.cells.values())
        cases = {threat: worst_case(cells, threat) for threat in threats}
        first = next((case for case in cases.values() if case is not None), None)
        figures = {CLEAN.name: _share(CLEAN, None if first is None else first.clean)}
        for threat, case in cases.items():
            column = _column(threat)
            figures[column.name] = _share(column, None if case is None or not case.used else case.robust)
        closed = [gate.finding for gate in model.gates if gate.closed]
        said = [
            {
                "label": gate.finding.label, "text": gate.finding.text, "closed": gate.closed,
                "next": gate.remedy,
            }
            for gate in model.gates
        ]  # fmt: skip
        taken = {threat.label: _taken_by(cells, case) for threat, case in cases.items() if case is not None}
        return Row(
            key=f"worst {model.key}", name=model.name, label=model.label, n=n,
            cells={"": cells[0]} if cells else {}, figures={"": figures},
            findings=tuple(gate.finding for gate in model.gates), struck=bool(closed),
            fields={"defense": model.label},
            record={
                "defense": model.label, "n": n, "gates": said, "may_be_called_robust": not closed,
                "taken_by": taken,
            },
        )  # fmt: skip


def _column(threat: Threat) -> Column:
    """Return the column of one radius."""
    return replace(ROBUST, name=f"robust_{threat.norm}_{threat.eps:.4g}", title=threat.label)


def _share(column: Column, values: np.ndarray | None) -> Figure:
    summary = None if values is None else summarise(column, values, np.ones(len(values)))
    nothing = Printed(math.nan, "the paper has no worst case")
    return build.figure(column, summary, "no attack within it", nothing)


def _taken_by(cells: Sequence[Cell], case: Any) -> dict[str, int]:
    """Return attack, with its knowledge -> number of images that it made worst."""
    found: dict[str, int] = {}
    for index in case.by[case.by >= 0]:
        config = cells[int(index)].config
        name = " ".join(filter(None, (str(config.get("access", "")), str(config["attack"]["name"]))))
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _as_security(cell: Cell) -> Cell:
    """Return an attack on the undefended model with the arrays that the worst case reads."""
    if cell.error is not None:
        return cell
    arrays = cell.arrays
    right = (arrays["predicted"] == arrays["labels"]).astype(np.float32)
    added = {"clean": np.ones(len(right), np.float32), "right_or_rejected": right}
    return replace(cell, arrays={**arrays, **added, **distances(arrays["x"], arrays["x_adv"])})


def _gates(section: Section) -> list[str]:
    return [f"{model.label}: {gate}" for model in section.subjects for gate in model.gates]


CHECKS = (
    failed_cells(),
    model_findings(
        lambda cell: str(cell.config.get("defense", {}).get("name", build.name_of(cell.config["model"])))
    ),
    Check(_gates, "no gate is closed: more knowledge never helps the model, attacks without gradients find "
                  "nothing new, every radius has an attack"),
)  # fmt: skip

SECURITY_STUDY = Study(
    name="security", options=Options, jobs=jobs, of_network=True, kinds=(SECURITY, INDICATORS),
    beside=(ATTACK,),
    title="Security evaluation", sections=sections, checks=CHECKS, paper=PAPER,
    overview=details.overview, details=details.details,
    fields=("data", "base", "preset", "table", "cell", "attack", "goal", "objective", "defense"),
    fields_after=("flags",), heading="Defenses", better="Better for the defender",
    intro="Which attack took how many images, and the gates.",
)  # fmt: skip

"""The table of the worst case, image by image, and the gates that strike its figures through."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.tried import tried
from deepsec_jax.studies.security.model import CLEAN, ROBUST, Model
from deepsec_jax.studies.security.worst import Threat, distances, worst_case
from deepsec_jax.tables import build
from deepsec_jax.tables.published import Printed
from deepsec_jax.tables.table import Figure, Row, Span, Table

WORST_INTRO = (
    "The share of images that survive every attack, with any knowledge, whose change is within the radius. "
    "It is taken image by image, never as an average over attacks, on the first n images that the strongest "
    "attack at this radius has tried. A figure that fails a gate is struck "
    "through: it may not be called robust accuracy. The gate says why."
)


def worst_table(
    models: Sequence[Model], threats: Sequence[Threat], *, title: str, note: str, n: int
) -> Table:
    """Return the table of the worst case: a row per model, a column per radius.

    Args:
        models: with their cells and gates.
        threats: the radii.
        title: of the section.
        note: why it has no title of the paper.
        n: number of images.
    """
    return Table(
        kind="worst", title=title, about="worst case", heading="Model", note=note,
        rows=tuple(_row(model, threats, n) for model in models),
        spans=(Span((CLEAN, *map(_column, threats))),),
        page_title="Worst case", findings="Gates", intro=WORST_INTRO, fields={"table": "worst"},
        caption=" (worst case). Per model: share of images that survive all attacks within the radius.",
    )  # fmt: skip


def _row(model: Model, threats: Sequence[Threat], n: int) -> Row:
    cells = list(model.cells.values())
    cases = {threat: worst_case(cells, threat, first=tried(cells, threat)) for threat in threats}
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
    names = {
        threat.label: [_name(cells, index) for index in case.by]
        for threat, case in cases.items() if case is not None
    }  # fmt: skip
    taken = {label: _counted(each) for label, each in names.items()}
    return Row(
        key=f"worst {model.key}", name=model.name, label=model.label, n=n,
        cells={"": cells[0]} if cells else {}, figures={"": figures},
        findings=tuple(gate.finding for gate in model.gates), struck=bool(closed),
        fields={"defense": model.label},
        record={
            "defense": model.label, "n": n, "gates": said, "may_be_called_robust": not closed,
            "taken_by": taken, "taken_by_image": names,
        },
    )  # fmt: skip


def _column(threat: Threat) -> Column:
    """Return the column of one radius."""
    formula = (
        f"share of n images on which the model is correct or rejects after all attacks with {threat.label}"
    )
    return replace(ROBUST, name=f"robust_{threat.norm}_{threat.eps:.4g}", title=threat.label, formula=formula)


def _share(column: Column, values: np.ndarray | None) -> Figure:
    summary = None if values is None else summarise(column, values, np.ones(len(values)))
    nothing = Printed(math.nan, "the paper has no worst case")
    return build.figure(column, summary, "no attack within it", nothing)


def _name(cells: Sequence[Cell], index: int) -> str:
    """Return the attack that took an image, with its knowledge; empty if it survives."""
    if index < 0:
        return ""
    config = cells[index].config
    return " ".join(filter(None, (str(config.get("knowledge", "")), str(config["attack"]["name"]))))


def _counted(names: Sequence[str]) -> dict[str, int]:
    """Return attack -> number of images that it took, the largest number first."""
    return dict(Counter(filter(None, names)).most_common())


def as_security(cell: Cell) -> Cell:
    """Return an attack on the undefended model with the arrays that the worst case reads."""
    if cell.error is not None:
        return cell
    arrays = cell.arrays
    right = (arrays["predicted"] == arrays["labels"]).astype(np.float32)
    added = {"clean": np.ones(len(right), np.float32), "right_or_rejected": right}
    if "mr_8bit" in cell.columns and (arrays["targets"] < 0).all():
        added["right_or_rejected_8bit"] = 1 - np.asarray(cell.columns["mr_8bit"], np.float32)
    return replace(cell, arrays={**arrays, **added, **distances(arrays["x"], arrays["x_adv"])})

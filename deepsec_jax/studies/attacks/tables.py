"""Attacks on one model with one candidate set: the paper's Tables III and XIV.

Cells with the same data, model, settings, seed and candidates are one section, so all figures of a table are
over the same images.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from deepsec_jax.attacks import ATTACKS as KNOWN
from deepsec_jax.metrics import METRICS, Column, summarise
from deepsec_jax.runs.cells import ATTACK, Cell
from deepsec_jax.studies.attacks import details
from deepsec_jax.studies.attacks.checks import CHECKS, MISSING
from deepsec_jax.studies.attacks.jobs import jobs
from deepsec_jax.studies.attacks.options import Options
from deepsec_jax.studies.paper_title import Used, changed_hyperparameters, why_untitled
from deepsec_jax.studies.settings import defense_of
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.numbers import TIMED
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import Figure, Row, Section, Span, Table

PAPER = Published("attacks")

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
_FAMILIES = {
    "II-B1": "Misclassification", "II-B2": "Imperceptibility", "II-B3": "Robustness", "II-B4": "Cost",
}  # fmt: skip
_INTRO = (
    "Success is a share of all n candidates; every other column is a mean over the hits unless stated "
    "otherwise. The columns are defined at the end. If the paper's number is missing, the reason is given "
    "for the attack."
)


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group cells into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones.
        times: whether to keep values that depend on the clock and the machine's load.
    """

    def together(cell: Cell) -> str:
        decided = {key: cell.config.get(key) for key in ("data", "model", "n", "seed", "candidates")}
        return build.decided_by({**decided, "preset": _preset(cell)})

    return [_section(group, times) for group in build.grouped(cells, together).values()]


def _preset(cell: Cell) -> str:
    return str(cell.config.get("attack", {}).get("preset"))


def _section(cells: Sequence[Cell], times: bool) -> Section:
    config, preset = cells[0].config, _preset(cells[0])
    dataset = build.name_of(config.get("data"))
    note = _why_untitled(cells, dataset, preset)
    about = f"Attacks on {build.name_of(config.get('model'))}, {dataset}, {preset} settings"
    title = about if note else f"{PAPER.title(dataset)} and ours"
    kept = [column for column in METRICS.values() if times or column.unit not in TIMED]
    measured = {name for cell in cells for name in cell.columns}
    rows = [_row(cell, dataset, preset, kept, note, times) for cell in cells]
    rows.sort(key=lambda row: (row.group[0] != "UAs", PAPER.position(row.name)))
    rows = [row for group in build.grouped(rows, lambda row: row.group).values() for row in group]
    whole = not note or not measured  # with the paper's title all of its columns are shown
    columns = [column for column in kept if column.quick and _stands(column, measured, rows, whole)]
    further = tuple(
        column for column in kept if column.name in measured and (not column.quick or _hidden(column, rows))
    )
    names = {column.name for column in (*columns, *further)}
    table = Table(
        kind="rows", title=title, heading="Attack", base="n/hits", note=note,
        rows=tuple(replace(row, figures={"": {
            name: figure for name, figure in row.figures[""].items() if name in names
        }}) for row in rows),
        spans=families(columns), further=further, intro=_INTRO,
        caption=". Per attack: our mean, its 95\N{NARROW NO-BREAK SPACE}% interval, and the number printed "
                "in the paper.",
    )  # fmt: skip
    section = Section(
        title=title, note=note, fields={"data": dataset, "preset": preset}, tables=(table,), kinds=("rows",),
        cells=tuple(row.cells[""] for row in rows), explained="mr",
        facts=build.facts(cells, {
            **defense_of(config),
            "Hyperparameters": f"{preset}, each with its source under the attack",
            "Candidates":
                f"n = {config.get('n')}, correctly classified test images, seed {config.get('seed')}",
        }, times=times),
        missing={} if preset != "paper" else build.missing(
            PAPER, PAPER.rows(dataset), [row.name for row in rows], KNOWN
        ),
    )  # fmt: skip
    failed = [f"{row.name}: {row.error}" for row in rows if row.error is not None]
    return replace(section, tables=(replace(table, notes=(*failed, *MISSING.find(section))),))


def _why_untitled(cells: Sequence[Cell], dataset: str, preset: str) -> str:
    """Return why the section does not carry the paper's title; empty if it does."""
    changed = [
        PAPER.label(name)
        for cell in cells
        if (name := str(cell.config["attack"]["name"])) in PAPER.rows(dataset)
        and changed_hyperparameters(cell.config["attack"], dataset, preset)
    ]
    config = cells[0].config
    used = Used(
        dataset, config.get("model"), config.get("images"), {"the hyperparameters are": preset},
        {"hyperparameters of": changed if preset == "paper" else ()},
    )  # fmt: skip
    return why_untitled(PAPER, used)


def _stands(column: Column, measured: set[str], rows: Sequence[Row], whole: bool) -> bool:
    """Tell whether a column is shown: measured, or the table is complete, and it applies to the models."""
    if column.needs_rejection and not any(row.figures[""][column.name].summary.n for row in rows):
        return False
    if _hidden(column, rows):
        return False
    return column.name in measured or (whole and column.name in PAPER.columns())


def _hidden(column: Column, rows: Sequence[Row]) -> bool:
    """Tell whether a column has only uninformative zeros."""
    return column.hides_zero and not any(row.figures[""][column.name].summary.mean > 0 for row in rows)


def families(columns: Sequence[Column]) -> tuple[Span, ...]:
    """Return groups of adjacent columns of one family, by the paper's section of their metric."""
    runs: list[tuple[str, list[Column]]] = []
    for column in columns:
        name = next(
            (_FAMILIES[other.section] for other in METRICS.values()
             if other.metric == column.metric and other.section in _FAMILIES), "Further",
        )  # fmt: skip
        if not runs or runs[-1][0] != name:
            runs.append((name, []))
        runs[-1][1].append(column)
    return tuple(Span(tuple(run), name) for name, run in runs)


def _row(cell: Cell, dataset: str, preset: str, columns: Sequence[Column], note: str, times: bool) -> Row:
    name, error = str(cell.config["attack"]["name"]), cell.error
    success = cell.arrays.get("success", np.zeros(0))
    goal, objective = goal_and_objective(cell, name)
    n, hits = len(success) or int(cell.config.get("n", 0)), int((success >= 0.5).sum())
    label = PAPER.label(name)
    return Row(
        key=cell.name, name=name, label=label, group=(goal, objective), n=n, hits=hits, base=f"{n}/{hits}",
        error=error, cells={"": cell}, fields={"attack": name, "goal": goal, "objective": objective},
        figures={"": {
            column.name: _figure(cell, column, dataset, preset, name, note) for column in columns
        }},
        record={
            "cell": cell.name, "attack": name, "label": label, "goal": goal, "objective": objective, "n": n,
            "hits": hits, "error": error, "config": cell.config,
            **({"environment": cell.environment} if times else {}),
        },
    )  # fmt: skip


def goal_and_objective(cell: Cell, name: str) -> tuple[str, str]:
    """Return the group of a row: ``UAs`` or ``TAs``, and the norm, or else the paper's group or the kind."""
    filed, card = PAPER.group(name), getattr(KNOWN.get(name.partition("@")[0]), "card", None)
    if "targets" in cell.arrays:
        goal = "TAs" if bool((cell.arrays["targets"] >= 0).any()) else "UAs"
    elif filed:
        goal = filed[0]
    else:
        goal = "TAs" if card is not None and card.goal == "targeted" else "UAs"
    norm = str(cell.config["attack"].get("hyperparameters", {}).get("norm", ""))
    objective = _NORMS.get(norm) or (filed[1] if filed else card.kind if card is not None else "other")
    return goal, objective


def _figure(cell: Cell, column: Column, dataset: str, preset: str, name: str, note: str) -> Figure:
    values, success = cell.columns.get(column.name), cell.arrays.get("success")
    summary = None if values is None or success is None else summarise(column, values, success)
    printed = PAPER.printed(dataset, name, column.name)
    if preset != "paper" and PAPER.title(dataset):
        printed = Printed(math.nan, f"the paper has no {preset} settings")
    another = (Reason("another model", note),) if note else ()
    reasons = (*another, *PAPER.reasons(dataset, name, column.name))
    return build.figure(column, summary, _absent(cell, column), printed, reasons, cell)


def _absent(cell: Cell, column: Column) -> str:
    """Return why a figure has no value; empty if it has one."""
    if cell.error is not None:
        return "failed"
    if column.name not in cell.columns:
        return "not measured"
    if column.needs_rejection:
        return "cannot reject"
    if column.needs_confidences and not cell.environment.get("confidences", True):
        return "votes, no confidences"
    if column.over == "successful" and not bool((cell.arrays["success"] >= 0.5).any()):
        return "no success"
    return "no value for any image"


ATTACKS = Study(
    name="attacks",
    options=Options, jobs=jobs, unit="attacks",
    kinds=(ATTACK,), title="Attack evaluation", sections=sections, checks=CHECKS, paper=PAPER,
    fields=("data", "preset", "cell", "attack", "goal", "objective"), overview=details.overview,
    details=details.details, heading="Attacks", better="Better for the attacker",
    intro="The same test images for every attack, from top to bottom: the clean image with its true class, "
          "the perturbation scaled to full colour (in grey images red is brighter and blue darker; the "
          "number is its largest entry), and the adversarial image with its predicted class and confidence.",
)  # fmt: skip

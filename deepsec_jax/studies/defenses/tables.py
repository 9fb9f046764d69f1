"""Defenses of one undefended model: the paper's Table IV on clean images, and tables under attack.

Cells with the same data, undefended model, test images and kind of preset are one section.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deepsec_jax.defenses import DEFENSES as KNOWN
from deepsec_jax.evaluation.utility import ACCURACY, REJECTED, utility_columns
from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import MODEL_INPUTS, ROBUSTNESS, UTILITY, Cell
from deepsec_jax.studies.defenses import details
from deepsec_jax.studies.defenses.checks import CHECKS
from deepsec_jax.studies.defenses.jobs import jobs
from deepsec_jax.studies.defenses.options import Options
from deepsec_jax.studies.defenses.robustness import KEPT, PAPER, defense_key, threat_tables
from deepsec_jax.studies.paper_title import Used, changed_settings, why_untitled
from deepsec_jax.studies.settings import defense_of, undefended_model
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.data_files import cell_record
from deepsec_jax.tables.numbers import number, told
from deepsec_jax.tables.published import Reason
from deepsec_jax.tables.table import Figure, Row, Section, Span, Table

_INTRO = (
    "The undefended model compared with each defended one, over all test images or n random ones. The "
    "columns are defined at the end."
)


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group the cells of defenses into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones.
        times: whether to keep values that depend on the clock and the machine's load.
    """
    every = list(cells)
    undefended = build.grouped((cell for cell in every if "defense" not in cell.config), undefended_model)
    groups = build.grouped(
        (cell for cell in every if "defense" in cell.config),
        lambda cell: (undefended_model(cell), str(cell.config["defense"]["preset"])),
    )
    return [_section(kind, group, undefended.get(key, []), times) for (key, kind), group in groups.items()]


def _section(kind: str, cells: Sequence[Cell], undefended: Sequence[Cell], times: bool) -> Section:
    config = cells[0].config
    dataset, base = build.name_of(config["data"]), build.name_of(config["model"])
    used = Used(
        dataset, config["model"], config["images"], {"the defenses are of preset": kind},
        {"settings of": _changed_labels(cells, dataset, kind)},
    )  # fmt: skip
    note = why_untitled(PAPER, used)
    groups = build.grouped(cells, defense_key)
    rows = [_row(key, group, dataset, kind, note, times) for key, group in groups.items()]
    rows.sort(key=lambda row: PAPER.position(row.name))
    changed = [(row, names) for row in rows if (names := _changed(groups[row.key], dataset, kind))]
    about = f"Defenses of {base}, {dataset}, {kind} settings"
    title = about if note else f"{PAPER.title(dataset)} and ours"
    # The column is shown only if a defense can reject images.
    columns = utility_columns(rejecting=any(row.figures[""][REJECTED.name].summary.n for row in rows))
    utility = Table(
        kind="utility", title=title, about="utility", note=note, heading="Defense",
        rows=tuple(replace(row, figures={"": {name: row.figures[""][name] for name in columns}})
                   for row in rows),
        spans=(Span(tuple(columns.values())),), fields={"table": "utility"},
        caption=". Per defense: our mean, its 95 % interval, its n, and the number printed in the paper.",
        notes=tuple(f"{row.name}: {row.error}" for row in rows if row.error),
        page_title="Utility on clean images", intro=_INTRO,
    )  # fmt: skip
    attacked = (cell for cell in (*undefended, *cells) if cell.kind == ROBUSTNESS)
    return Section(
        title=title, note=note, fields={"data": dataset, "base": base, "preset": kind}, explained="accuracy",
        tables=(utility, *threat_tables(attacked, about, times=times)), kinds=("utility", "robustness"),
        cells=(*undefended, *cells), changed=tuple((row.name, names, kind) for row, names in changed),
        facts=build.facts((*cells, *undefended), _facts(cells, kind, dataset, base), times=times, model=""),
        missing={} if kind != "paper" else build.missing(
            PAPER, PAPER.rows(dataset), [row.name for row in rows], KNOWN
        ),
    )  # fmt: skip


def _changed(cells: Sequence[Cell], dataset: str, kind: str) -> tuple[str, ...]:
    """Return the settings of a defense that differ from the preset's."""
    model = cells[0].config["model"]
    base = model.get("recipe") if isinstance(model, Mapping) else None
    return changed_settings(cells[0].config["defense"], dataset, kind, channels_of(cells), base)


def _changed_labels(cells: Sequence[Cell], dataset: str, kind: str) -> list[str]:
    """Return the paper's names of the defenses with other settings than the paper's, each once."""
    if kind != "paper":
        return []
    labels = (PAPER.label(str(c.config["defense"]["name"])) for c in cells if _changed([c], dataset, kind))
    return list(dict.fromkeys(labels))


def channels_of(cells: Iterable[Cell]) -> int | None:
    """Return the channels of images of finished cells; None if no cell has images."""
    return next((cell.arrays["x"].shape[3] for cell in cells if "x" in cell.arrays), None)


def _row(key: str, cells: Sequence[Cell], dataset: str, kind: str, note: str, times: bool) -> Row:
    name = str(cells[0].config["defense"]["name"])
    cell = _clean(cells)
    changed = _changed(cells, dataset, kind)
    others = [Reason("another model or training", note)] if note else []
    if changed:
        others.append(Reason("other settings", f"{', '.join(changed)}: not those of the preset."))
    label, category = PAPER.label(name), " ".join(PAPER.group(name))
    record = {"defense": name, "label": label, "category": category, "changed": list(changed)}
    return Row(
        key=key, name=name, label=label, group=(category or "Others",), cells={"": cell} if cell else {},
        error=cell.error if cell else None, fields={"defense": name, "category": category},
        figures={"": {
            column.name: _figure(cell, column, dataset, name, others)
            for column in utility_columns(rejecting=True).values()
        }},
        record=record | (cell_record(cell, times=times, kept=KEPT) if cell else {}),
    )  # fmt: skip


def _clean(cells: Iterable[Cell]) -> Cell | None:
    """Return the cell on clean images, the one with most images; None if there is none."""

    def images(cell: Cell) -> float:
        return -1 if cell.error is not None else cell.config.get("n", math.inf)

    return max((cell for cell in cells if cell.kind == UTILITY), key=images, default=None)


def _figure(cell: Cell | None, column: Column, dataset: str, name: str, others: Sequence[Reason]) -> Figure:
    values = None if cell is None else cell.columns.get(column.name)
    summary = None
    if cell is not None and values is not None:
        summary = summarise(column, values, np.minimum(cell.arrays["correct_raw"], cell.arrays["correct"]))
    printed = PAPER.printed(dataset, name, column.name)
    reasons = (*others, *PAPER.reasons(dataset, name, column.name))
    return build.figure(column, summary, _absent(cell, column), printed, reasons, cell)


def _absent(cell: Cell | None, column: Column) -> str:
    """Return why a figure has no value; empty if it has one."""
    if cell is not None and cell.error is None and column.needs_rejection and "rejected" not in cell.arrays:
        return "cannot reject"
    if cell is None or (cell.error is None and column.name not in cell.columns):
        return "not measured"
    if cell.error is not None:
        return "failed"
    if column.needs_confidences and not cell.environment.get("confidences", True):
        refuses = "rejected" in cell.arrays
        return "not taken of a model that refuses" if refuses else "votes, no confidences"
    return "no image that both get right" if column.over != "all" else "no value for any image"


def _facts(cells: Sequence[Cell], kind: str, dataset: str, base: str) -> Mapping[str, Any]:
    found = {**defense_of(cells[0].config), "Undefended model": base}
    clean = _clean(cells)
    if clean is not None and clean.error is None:
        correct = clean.arrays["correct_raw"]
        found["Undefended accuracy"] = told(ACCURACY, summarise(ACCURACY, correct, np.ones(len(correct))))
        found["Test accuracy"] = ""  # the same, from the training's figures
    paper = PAPER.said(dataset, "undefended")
    if paper is not None:
        found["Undefended accuracy, paper"] = number(ACCURACY, paper / 100)
    return found | {"Hyperparameters": f"{kind}, each with its source under the defense"}


DEFENSES = Study(
    name="defenses",
    options=Options, jobs=jobs, of_network=True,
    kinds=(UTILITY, ROBUSTNESS, MODEL_INPUTS), title="Defense evaluation", sections=sections,
    checks=CHECKS, paper=PAPER, overview=details.model_inputs, details=details.details,
    fields=("data", "base", "preset", "table", "cell", "defense", "category", "eps", "seed"),
    fields_after=("flags",), heading="Defenses", better="Better for the defender",
    intro="Hyperparameters with their sources, the training, and the same test images for every defense: the "
          "clean image with its true class, the perturbation scaled to full colour (in grey images red is "
          "brighter and blue darker; the number is its largest entry), and the adversarial image with the "
          "defended model's predicted class and confidence. A misclassified clean image is unchanged.",
)  # fmt: skip

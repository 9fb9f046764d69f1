"""The tables and the page of a verdict."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.verdict.gates import gates
from deepsec_jax.studies.verdict.jobs import ACCURACY, CLOSEST, VERDICT, jobs
from deepsec_jax.studies.verdict.options import Options
from deepsec_jax.studies.verdict.sentences import CLEAN, DISTANCE, ROBUST, SYMBOLS, radius, sentence, verdict
from deepsec_jax.tables import build, plots
from deepsec_jax.tables.checks import Check, failed_cells, model_findings
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.pictures import class_in_words, example, names_for
from deepsec_jax.tables.plots import Curve
from deepsec_jax.tables.published import Printed
from deepsec_jax.tables.table import Finding, Row, Section, Span, Table


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Return one section per model, sample and radius."""
    groups = build.grouped(cells, _shared)
    return [_section(group, times) for group in groups.values()]


def _shared(cell: Cell) -> str:
    names = ("data", "model", "images", "weights", "n", "seed")
    return build.decided_by({name: cell.config.get(name) for name in names})


def _section(cells: Sequence[Cell], times: bool) -> Section:
    config = cells[0].config
    model, data = build.name_of(config["model"]), build.name_of(config["data"])
    title = f"How robust is {model}, {data}"
    parts = [
        (ACCURACY, (CLEAN, ROBUST), "Radius", "Accuracy"),
        (CLOSEST, (DISTANCE,), "Norm", "Smallest change"),
    ]
    closed = [gate.finding for gate in gates(cells) if gate.closed]
    tables = tuple(
        Table(
            kind=kind, title=title, about=words.lower(), heading=heading, base="n", page_title=words,
            rows=tuple(
                _row(cell, columns, times, closed if kind == ACCURACY else ())
                for cell in cells if cell.config["question"] == kind
            ),
            spans=(Span(columns),), fields={"table": kind},
        )
        for kind, columns, heading, words in parts
    )  # fmt: skip
    return Section(
        title=title, note="", fields={"data": data, "model": model}, tables=tables, cells=tuple(cells),
        kinds=(ACCURACY, CLOSEST), record={"verdict": verdict(cells)},
        facts=verdict(cells) | build.facts(cells, {
            "Images": f"n = {config['n']} random test images, seed {config['seed']}",
        }, times=times),
    )  # fmt: skip


def _row(cell: Cell, columns: Sequence[Column], times: bool, closed: Sequence[Finding]) -> Row:
    config = cell.config
    label = SYMBOLS[config["norm"]]
    if config["question"] == ACCURACY:
        label = f"{label} ≤ {radius(float(config['eps']))}"
    n = int(config["n"])
    figures = {}
    for column in columns:
        values = cell.columns.get(column.name)
        success = cell.arrays.get("success", np.ones(n))
        summary = None if values is None else summarise(column, values, success)
        absent = "failed" if cell.error else "no success" if values is not None else "not measured"
        figures[column.name] = build.figure(
            column, summary, absent, Printed(float("nan"), "not in the paper"), cell=cell
        )
    environment = {"environment": cell.environment} if times else {}
    return Row(
        key=cell.name, name=label, label=label, figures={"": figures}, cells={"": cell}, n=n, base=str(n),
        error=cell.error, fields={"row": label}, findings=tuple(closed), struck=bool(closed),
        record={"row": label, "cell": cell.name, "error": cell.error, "config": config, **environment},
    )  # fmt: skip


def overview(section: Section, anchor: str) -> list[Block]:
    """Return the curves of the smallest changes."""
    charts = []
    for cell in section.cells:
        if cell.error is None and cell.config["question"] == CLOSEST:
            symbol = SYMBOLS[cell.config["norm"]]
            right = cell.arrays["clean"] >= 0.5
            hits = (cell.arrays["success"] >= 0.5) & right
            curve = Curve("smallest change", cell.arrays["distance"][hits], int(right.sum()))
            svg = plots.success_distance(f"{anchor}-{cell.config['norm']}", symbol, [curve])
            charts.append({"title": f"Fooled within a change, {symbol}", "svg": Markup(svg)})
    block = Block("charts", {"charts": charts, "large": True}, "How much it takes", "")
    return [block] if charts else []


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return the pictures and the list of attacks of each radius."""
    del anchor, times
    found = []
    for row in section.rows(ACCURACY):
        cell = row.cells[""]
        if cell.error is not None:
            found.append(Detail(key=row.key, label=row.label, errors=(cell.error,)))
            continue
        attacks = "; ".join(f"{number}. {text}" for number, text in enumerate(cell.environment["attacks"], 1))
        blocks = (
            Block("pictures", {"examples": _examples(cell), "success": "fooled", "failure": "not fooled"}),
            Block("facts", {"Attacks, in order": attacks}),
        )
        found.append(Detail(key=row.key, label=row.label, figure=f"n = {row.n}", blocks=blocks))
    return found


def _examples(cell: Cell) -> list[dict[str, Any]]:
    arrays = cell.arrays
    classes = int(max(arrays["labels"].max(), arrays["predicted"].max())) + 1
    names = names_for(cell.environment.get("class_names", ()), classes)
    return [
        example(
            arrays["x"][index], arrays["x_adv"][index], label=names[arrays["labels"][index]],
            predicted=class_in_words(arrays["predicted"][index], names),
            confidence=float(arrays["confidence"][index]), success=bool(arrays["robust"][index] < 0.5),
            target=None,
        )
        for index in examples_of(arrays["labels"])
    ]  # fmt: skip


ROBUSTNESS_STUDY = Study(
    name="robustness", options=Options, jobs=jobs, kinds=(VERDICT,), title="How robust is the model?",
    sections=sections, overview=overview, details=details,
    checks=(
        failed_cells(),
        model_findings(lambda cell: build.name_of(cell.config["model"])),
        Check(lambda section: [sentence(str(gate)) for gate in gates(section.cells)], "no gate is closed"),
    ),
    fields=("data", "model", "table", "row", "cell"), fields_after=("flags",), heading="Pictures",
    better="Better for the owner",
    intro="The same test images: clean, the change scaled to full colour, and the image after the attack.",
)  # fmt: skip

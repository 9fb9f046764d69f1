"""The tables and the sentences of a verdict."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gate import Gate
from deepsec_jax.studies.security.indicated import UNAVAILABLE, indicated
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.verdict.attacks import MORE, SEARCH, short_name
from deepsec_jax.studies.verdict.jobs import ACCURACY, CLOSEST, INDICATORS, VERDICT, jobs
from deepsec_jax.studies.verdict.options import Options
from deepsec_jax.tables import build, plots
from deepsec_jax.tables.checks import Check, failed_cells, model_findings
from deepsec_jax.tables.numbers import digits, interval, number
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.pictures import class_in_words, example, names_for
from deepsec_jax.tables.plots import Curve
from deepsec_jax.tables.published import Printed
from deepsec_jax.tables.table import Finding, Row, Section, Span, Table

SYMBOLS = {"linf": "L∞", "l2": "L2"}
FEW = 100
"""Below this number of images a share has an interval of more than 20 points."""

BLIND_REMEDY = "decisions alone: deepsec attack MODEL --attacks rays, or a surrogate: models.straight_through"
SEARCH_REMEDY = "another surrogate, or more queries: deepsec attack MODEL --attacks square rays"

NOT_TRIED = (
    "other norms than L∞ and L2; rotations, patches and other changes of the image; attacks on the training "
    "data; an attacker who knows more of this model than its gradients"
)


def _share(name: str, title: str, formula: str) -> Column:
    values = lambda cell: cell.arrays[name]  # noqa: E731
    return Column(name, "robust", title, formula, "ours", "share", "higher", "all", values, rate=True)


CLEAN = _share("clean", "Clean", "share of the n images that are classified correctly")
ROBUST = _share("robust", "Robust", "share of the n images that stay correct under every attack")
DISTANCE = Column(
    "distance", "ald", "Distance", "size of the smallest change that fools the model", "ours", "1", "higher",
    "successful", lambda cell: cell.arrays["distance"],
)  # fmt: skip


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
        label = f"{label} ≤ {_radius(float(config['eps']))}"
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


def _radius(eps: float) -> str:
    levels = eps * 255
    return f"{levels:.0f}/255" if eps < 0.2 and abs(levels - round(levels)) < 1e-4 else digits(eps)


def verdict(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the answer in plain sentences, topic -> text."""
    found: dict[str, str] = {}
    for cell in cells:
        if cell.error is None and cell.config["question"] == ACCURACY:
            found |= _accuracy(cell)
    changes = [
        text for cell in cells
        if cell.error is None and cell.config["question"] == CLOSEST and (text := _median(cell))
    ]  # fmt: skip
    if changes:
        found["Smallest change"] = (
            f"Half of the correctly classified images are fooled by {' or '.join(changes)}, or by less."
        )
    found["Not tried"] = f"{NOT_TRIED[0].upper()}{NOT_TRIED[1:]}."
    closed = [gate for gate in gates(cells) if gate.closed]
    if closed and "Robust accuracy" in found:
        found["Robust accuracy"] += " This is no robust accuracy: a gate is closed."
    found["Gates"] = (
        "All gates hold: nothing here says that the attacks were too weak." if not closed
        else f"Not robust accuracy. {' '.join(sentence(str(gate)) for gate in closed)}"
    )  # fmt: skip
    return found


def sentence(text: str) -> str:
    """Return a text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def _accuracy(cell: Cell) -> dict[str, str]:
    clean, robust = (summarise(column, cell.columns[column.name], np.ones(int(cell.config["n"])))
                     for column in (CLEAN, ROBUST))  # fmt: skip
    norm, eps = SYMBOLS[cell.config["norm"]], _radius(float(cell.config["eps"]))
    felled = cell.environment["felled"]
    names = map(short_name, cell.environment["attacks"])
    tried = ", ".join(f"{name} {count}" for name, count in zip(names, felled, strict=True))
    return {
        "Clean accuracy": f"{_said(CLEAN, clean)} of the images are classified correctly.",
        "Robust accuracy": f"{_said(ROBUST, robust)} stay correct under every attack with {norm} ≤ {eps}.",
        "Tried": f"AutoAttack; images that each attack was the first to fool: {tried}.",
    }


def _said(column: Column, summary: Summary) -> str:
    return f"{number(column, summary.mean)} (95 % interval {interval(column, summary)}, n = {summary.n})"


def _median(cell: Cell) -> str:
    right = cell.arrays["clean"] >= 0.5
    distance = np.where(cell.arrays["success"] >= 0.5, cell.arrays["distance"], np.inf)[right]
    if not len(distance) or not np.isfinite(np.median(distance)):
        return ""
    return f"{digits(float(np.median(distance)), 3)} in {SYMBOLS[cell.config['norm']]}"


def gates(cells: Sequence[Cell]) -> list[Gate]:
    """Return the conditions that are not met, so that the figure may not be called robust accuracy."""
    found = []
    for cell in cells:
        question = cell.config["question"]
        if cell.error is not None:
            text = f"{cell.config['row']} failed: {cell.error}"
            found.append(Gate(Finding("a cell failed", text), True, "the same command again"))
        elif question == ACCURACY:
            found += _too_weak(cell)
            for finding in cell.environment.get("findings", ()):
                found.append(Gate(Finding("outputs of the model", str(finding).rstrip(".")), True))
            found += _order(cell, cells)
        elif question == INDICATORS:
            found += indicated(cell.arrays, surrogate=cell.environment["surrogate"])
    return found


def _too_weak(cell: Cell) -> list[Gate]:
    """Return what the attacks with special roles, the gradient and the number of images say."""
    n, found = int(cell.config["n"]), []
    felled = dict.fromkeys((SEARCH, MORE), 0)
    for role, count in zip(cell.environment["roles"], cell.environment["felled"], strict=True):
        if role in felled:
            felled[role] += int(count)
    if not cell.environment["has_gradient"]:
        text = "the model has no gradient, so attacks with gradients found nothing"
        found.append(Gate(Finding(UNAVAILABLE, text), True, BLIND_REMEDY))
    if felled[SEARCH] > max(1, 0.002 * n):
        text = f"{felled[SEARCH]} of n = {n} images fell to a search without gradients only"
        found.append(Gate(Finding("black box ahead of white box", text), True, SEARCH_REMEDY))
    if felled[MORE] > max(1, 0.01 * n):
        text = f"{felled[MORE]} of n = {n} images fell only when the steps were doubled"
        found.append(Gate(Finding("more steps still gain", text), True, "--version standard"))
    if n < FEW:
        text = f"n = {n} is too few for a claim"
        found.append(Gate(Finding("few images", text), True, f"--n {FEW} or more"))
    return found


def _order(cell: Cell, cells: Sequence[Cell]) -> list[Gate]:
    """Return whether the search for the smallest change fools images that AutoAttack does not."""
    for other in cells:
        same = other.error is None and other.config["question"] == CLOSEST
        if same and other.config["norm"] == cell.config["norm"]:
            near = other.arrays["distance"] <= float(cell.config["eps"]) * (1 + 1e-5)
            missed = (other.arrays["success"] >= 0.5) & near & (cell.arrays["robust"] >= 0.5)
            if missed.sum() > max(1, 0.002 * len(missed)):
                text = f"FMN fools {int(missed.sum())} images within the radius that AutoAttack does not"
                return [Gate(Finding("a smaller change is known", text), True, "--version standard")]
    return []


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
        attacks = {f"Attack {number + 1}": text for number, text in enumerate(cell.environment["attacks"])}
        blocks = (
            Block("pictures", {"examples": _examples(cell), "success": "fooled", "failure": "not fooled"}),
            Block("facts", attacks, "Attacks, in order"),
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

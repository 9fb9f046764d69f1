"""What the page shows of one attack: hyperparameters, pictures, drawings, and figures beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deepsec_jax.attacks import preset_card
from deepsec_jax.catalog import UnknownName
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation import figures, paper_numbers
from deepsec_jax.evaluation.attack_table import Result
from deepsec_jax.evaluation.attack_warnings import as_row, distances
from deepsec_jax.evaluation.figures import Curve
from deepsec_jax.evaluation.paper_table import Entry, Section, TableRow
from deepsec_jax.evaluation.paper_title import same
from deepsec_jax.evaluation.picture_grid import examples_of, section_of
from deepsec_jax.runs.cells import Cell


def details(row: TableRow, section: Section, anchor: str) -> dict[str, Any]:
    """Return what the template shows of one attack; a cell that failed has its error and nothing else.

    Args:
        row: the attack.
        section: where it stands.
        anchor: id of its place in the page.
    """
    view: dict[str, Any] = {"anchor": anchor, "row": row, "error": row.cell.error}
    if row.cell.error is not None:
        return view
    columns = (*section.columns, *section.further)
    return {
        **_pictures(row.cell, row, section),
        **view,
        "charts": _charts(row, anchor),
        "entries": [compared(row.entries[column.name]) for column in columns],
    }


def compared(entry: Entry) -> dict[str, Any]:
    """Return one figure as the page prints it, with the paper's and the reasons for a difference."""
    return {
        "column": entry.column,
        "mean": paper_numbers.figure(entry.column, entry.summary.mean),
        "absent": entry.absent,
        "interval": paper_numbers.interval(entry.column, entry.summary),
        "n": entry.summary.n,
        "published": paper_numbers.published(entry),
        "published_absent": entry.printed.absent,
        "difference": paper_numbers.difference(entry),
        "inside": bool(entry.reasons) and entry.inside,
        "reasons": entry.reasons,
    }


def _pictures(cell: Cell, row: TableRow, section: Section) -> dict[str, Any]:
    """Return title, hyperparameters with their sources, and the grid of clean, perturbation, adversarial."""
    arrays = cell.arrays
    probabilities = arrays["probabilities"]
    result = Result(
        row=as_row(row), x_adv=arrays["x_adv"], targets=arrays["targets"], success=arrays["success"],
        predicted=arrays["predicted"], confidence=arrays["confidence"], probabilities=probabilities,
        no_answer=arrays.get("no_answer", np.zeros(len(probabilities))),
    )  # fmt: skip
    candidates = Candidates(
        images=arrays["x"], labels=arrays["labels"], targets=arrays["targets"],
        least_likely=arrays["targets"], rows=arrays["rows"], seed=int(cell.config.get("seed", 0)),
    )  # fmt: skip
    names = _class_names(cell, probabilities.shape[1])
    return section_of(result, _card(cell, section), candidates, names, examples_of(arrays["labels"]))


def _class_names(cell: Cell, classes: int) -> Sequence[str]:
    for place in (cell.config, cell.environment):
        names = place.get("class_names")
        if isinstance(names, list | tuple) and len(names) >= classes:
            return [str(name) for name in names]
    return [f"class {index}" for index in range(classes)]


def _card(cell: Cell, section: Section) -> Mapping[str, Mapping[str, Any]]:
    """Return the preset's sources and reasons of those hyperparameters that are the preset's."""
    try:
        card = preset_card(
            str(cell.config["attack"]["name"]), section.dataset, section.preset,
            channels=cell.arrays["x"].shape[3],
        )  # fmt: skip
    except UnknownName:
        card = {}
    used = cell.config["attack"].get("hyperparameters", {})
    changed = {"source": "set for this run", "reason": ""}
    return {name: entry if same(entry["value"], used.get(name)) else changed for name, entry in card.items()}


def _charts(row: TableRow, anchor: str) -> list[dict[str, Any]]:
    hits = row.cell.arrays["success"] >= 0.5
    confidence = row.cell.arrays["confidence"][hits]
    delta = distances(row)
    curves = [
        (f"Success within {norm} distance", figures.success_distance(f"{anchor}-c{index}", norm, [curve]))
        for index, norm in enumerate(("L2", "L∞"))
        for curve in [Curve(row.name, delta[norm][hits], row.n)]
    ]
    confident = row.cell.environment.get("confidences", True)
    spread = [
        *((("Confidence of the adversarial class, hits",
            figures.distribution(f"{anchor}-p", "P(adversarial class)", confidence, (0.0, 1.0))),)
          if confident else ()),
        ("L2 distance, hits", figures.distribution(f"{anchor}-d2", "L2 distance", delta["L2"][hits])),
        ("L∞ distance, hits", figures.distribution(f"{anchor}-di", "L∞ distance", delta["L∞"][hits])),
    ]  # fmt: skip
    return [{"title": title, "svg": Markup(svg)} for title, svg in (*curves, *spread)]


def overview(rows: Sequence[TableRow], anchor: str) -> list[dict[str, Any]]:
    """Return the success-distance curves of all attacks of one goal, one drawing per norm."""
    charts = []
    for goal, words in (("UAs", "untargeted"), ("TAs", "targeted")):
        chosen = [row for row in rows if row.goal == goal and row.cell.error is None and row.n]
        for norm in ("L2", "L∞") if chosen else ():
            curves = [
                Curve(row.label, distances(row)[norm][row.cell.arrays["success"] >= 0.5], row.n)
                for row in chosen
            ]
            name = f"{anchor}-{goal}-{'l2' if norm == 'L2' else 'linf'}"
            svg = figures.success_distance(name, norm, curves)
            charts.append({"title": f"{norm}, {words} attacks", "svg": Markup(svg)})
    return charts

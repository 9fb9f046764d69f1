"""Details of one attack on a page: hyperparameters, pictures, plots, and all metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deepsec_jax.attacks import ATTACKS, preset_card
from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.paper_title import same
from deepsec_jax.studies.settings import Card, card_of, described, settings_block
from deepsec_jax.tables import plots
from deepsec_jax.tables.page import Block, Detail, anchor_of, charts_block, every_figure
from deepsec_jax.tables.pictures import class_in_words, example, names_for
from deepsec_jax.tables.plots import Curve
from deepsec_jax.tables.table import Row, Section

_CURVES = (
    "For each distance r, the share of all n images on which the attack succeeded with a change of at most "
    "r. For an attack with a budget the curve is a step at its radius; only minimum-norm attacks show the "
    "distance of the decision boundary."
)


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return the details of each attack; a failed cell has only its error."""
    (table,) = section.tables
    return [
        Detail(
            key=row.key, label=row.label, aside="" if row.label == row.name else row.name,
            about=described(ATTACKS.get(row.name.partition("@")[0])),
            figure="" if row.error else f"{row.hits} hits of n = {row.n}",
            errors=(row.error,) if row.error else (),
            blocks=() if row.error else (
                _settings(row, section),
                Block("pictures", {"examples": _examples(row.cells[""]), "success": "hit",
                                   "failure": "no hit"}),
                *charts_block(_charts(row, anchor_of(anchor, index)), large=False),
                every_figure(row.figures[""][column.name] for column in table.columns),
            ),
        )
        for index, row in enumerate(table.rows)
    ]  # fmt: skip


def _settings(row: Row, section: Section) -> Block:
    cell = row.cells[""]
    used = cell.config["attack"].get("hyperparameters", {})
    channels = cell.arrays["x"].shape[3]
    card: Card = card_of(
        preset_card, row.name, section.fields["data"], section.fields["preset"], channels=channels
    )
    changed = [name for name, entry in card.items() if not same(entry["value"], used.get(name))]
    return settings_block(used, card, changed)


def _examples(cell: Cell) -> list[dict[str, Any]]:
    arrays = cell.arrays
    given = cell.environment.get("class_names", cell.config.get("class_names", ()))
    names = names_for(given, arrays["probabilities"].shape[1])
    targets = arrays["targets"]
    return [
        example(
            arrays["x"][index], arrays["x_adv"][index], label=names[arrays["labels"][index]],
            predicted=class_in_words(arrays["predicted"][index], names),
            confidence=float(arrays["confidence"][index]),
            success=bool(arrays["success"][index] >= 0.5),
            target=names[targets[index]] if targets[index] >= 0 else None,
        )
        for index in examples_of(arrays["labels"])
    ]  # fmt: skip


def distances(cell: Cell) -> Mapping[str, np.ndarray]:
    """Return L2 and L∞ of the change of each image, float64 [N]."""
    delta = np.abs(cell.arrays["x_adv"].astype(np.float64) - cell.arrays["x"].astype(np.float64))
    delta = delta.reshape(len(delta), int(np.prod(delta.shape[1:])))
    return {"L2": np.sqrt((delta**2).sum(axis=1)), "L∞": delta.max(axis=1, initial=0.0)}


def _hits(row: Row) -> np.ndarray:
    return row.cells[""].arrays["success"] >= 0.5


def _charts(row: Row, anchor: str) -> list[tuple[str, str]]:
    hits, delta = _hits(row), distances(row.cells[""])
    confidence = row.cells[""].arrays["confidence"][hits]
    drawn = [
        (f"Success within {norm} distance", plots.success_distance(f"{anchor}-c{index}", norm, [curve]))
        for index, norm in enumerate(("L2", "L∞"))
        for curve in [Curve(row.name, delta[norm][hits], row.n)]
    ]
    if row.cells[""].environment.get("confidences", True):
        svg = plots.distribution(f"{anchor}-p", "P(adversarial class)", confidence, (0.0, 1.0))
        drawn.append(("Confidence of the adversarial class, hits", svg))
    return [
        *drawn,
        ("L2 distance, hits", plots.distribution(f"{anchor}-d2", "L2 distance", delta["L2"][hits])),
        ("L∞ distance, hits", plots.distribution(f"{anchor}-di", "L∞ distance", delta["L∞"][hits])),
    ]


def overview(section: Section, anchor: str) -> list[Block]:
    """Return the success-distance curves of all attacks of one goal, one drawing per norm."""
    charts = []
    for goal, words in (("UAs", "untargeted"), ("TAs", "targeted")):
        rows = [row for row in section.rows("rows") if row.group[0] == goal and not row.error and row.n]
        for norm in ("L2", "L∞") if rows else ():
            curves = [Curve(row.label, distances(row.cells[""])[norm][_hits(row)], row.n) for row in rows]
            name = f"{anchor}-{goal}-{'l2' if norm == 'L2' else 'linf'}"
            svg = plots.success_distance(name, norm, curves)
            charts.append((f"{norm}, {words} attacks", svg))
    return charts_block(charts, "Success against distance", _CURVES)

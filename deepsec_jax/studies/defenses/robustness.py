"""Tables of models under attack: clean, replayed, white-box and adaptive.

A table has one threat model: one radius, one sample, one adaptive attack.  Nothing is averaged over attacks
or threat models; ``worst`` is computed image by image.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deepsec_jax.evaluation.adaptive import REJECTION_COLUMNS, ROBUSTNESS_COLUMNS
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, UNDEFENDED, WHITE_BOX
from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.defenses.inconsistencies import ZERO_GRADIENT, inconsistencies, search_ahead
from deepsec_jax.studies.defenses.threat_words import attack_in_words, eps_in_words
from deepsec_jax.tables import build
from deepsec_jax.tables.data_files import cell_record
from deepsec_jax.tables.published import Printed, Published
from deepsec_jax.tables.table import Figure, Finding, Row, Span, Table

PAPER = Published("defenses")

ATTACKED = (REPLAYED, WHITE_BOX, ADAPTIVE)
"""The attackers, in order of increasing knowledge."""

JOINT = ("weights", "confident", "step_size", "rule", "decay", "losses")
"""Hyperparameters of the adaptive attack that exist only for a model with a detector."""

OWN = ("stops", "search")
"""Hyperparameters that depend on the model: is its surrogate exact, has it a gradient, is it random."""

KEPT = ("folder", "training")
"""Entries of a cell's environment in JSON without times."""

_INTRO = (
    "The share of all n images, drawn at random and not picked for being right, that stays correctly "
    "classified. Replayed images were made on the undefended model, white-box ones on the defended model "
    "itself, adaptive ones through the surrogate that the defense names for its own gradients; worst is "
    "the worst of the three, image by image. An attacker who knows more cannot do worse, so each column "
    "should be at most the one before it. Nothing here is an average over attacks."
)
_REJECTS = (
    " A model with a detector may also reject: a clean image that it rejects counts as an error, an "
    "adversarial one as not fooled; how many of the images were rejected stands under each figure."
)


def defense_key(cell: Cell) -> str:
    """Return the identity of a cell's defense: its settings and its weights."""
    decided = {"defense": cell.config.get("defense"), "weights": cell.config["weights"].get("defended")}
    return build.decided_by(decided) if decided["defense"] else ""


def threat_tables(cells: Iterable[Cell], about: str, *, times: bool) -> list[Table]:
    """Group cells under attack, of one undefended model, into tables, in the order of first occurrence.

    Args:
        cells: of kind ``robustness``.
        about: the undefended model.
        times: see ``studies.report``.
    """

    def threat(cell: Cell) -> str:
        return build.decided_by({name: cell.config[name] for name in ("eps", "n", "seed", "images")})

    groups = build.grouped(cells, threat).values()
    return [table for group in groups for table in _tables(group, about, times)]


def _tables(cells: Sequence[Cell], about: str, times: bool) -> list[Table]:
    """Return one table per adaptive attack; a defense without one is in the first."""
    adaptive = {_attack(cell): None for cell in cells if cell.config["knowledge"] == ADAPTIVE}
    by_defense = build.grouped(cells, defense_key)
    tables = []
    for index, wanted in enumerate(adaptive or {"": None}):
        rows = []
        for key, group in by_defense.items():
            chosen = {
                cell.config["knowledge"]: cell
                for cell in group
                if cell.config["knowledge"] != ADAPTIVE or _attack(cell) == wanted
            }
            others = any(cell.config["knowledge"] == ADAPTIVE for cell in group)
            if not key or ADAPTIVE in chosen or (not others and index == 0):
                rows.append(_row(key, chosen, times))
        rows.sort(key=lambda row: (bool(row.key), PAPER.position(row.name)))
        if any(row.key for row in rows):
            tables.append(_table(tuple(rows), about))
    return tables


def _attack(cell: Cell) -> str:
    """Return the identity of an attack, without hyperparameters that apply only to detectors."""
    attack = cell.config["attack"]
    values = {name: value for name, value in attack["hyperparameters"].items() if name not in (*JOINT, *OWN)}
    return build.decided_by({**attack, "hyperparameters": values})


def _table(rows: tuple[Row, ...], about: str) -> Table:
    cells = {knowledge: cell for row in rows for knowledge, cell in row.cells.items()}
    config = next(iter(cells.values())).config
    facts = {}
    for knowledge in (UNDEFENDED, WHITE_BOX):
        if knowledge in cells:
            facts["Replayed and white-box"] = attack_in_words(cells[knowledge].config["attack"])
    for attack in (row.cells[ADAPTIVE].config["attack"] for row in rows if ADAPTIVE in row.cells):
        joint = any(name in attack["hyperparameters"] for name in JOINT)
        facts["Adaptive, on detectors" if joint else "Adaptive"] = attack_in_words(attack)
    eps, seed = float(config["eps"]), int(config["seed"])
    threat = f"L∞, ε = {eps_in_words(config['eps'])}, n = {config['n']} test images, seed {config['seed']}"
    said = [f"{label}: {text}" for label, text in facts.items()]
    said += [f"{row.name}: {label}" for row in rows for label in row.labels()]
    said += [
        f"{row.name}, {knowledge}: {cell.error}"
        for row in rows
        for knowledge, cell in row.cells.items()
        if cell.error is not None
    ]
    return Table(
        kind="robustness", title=f"{about}: accuracy under attack, {threat}", heading="Model", rows=rows,
        spans=(Span(tuple(ROBUSTNESS_COLUMNS.values())),), several=True, facts=facts, notes=tuple(said),
        caption=". Per model: mean, its 95 % interval, its n.",
        fields={"table": "robustness", "eps": eps, "seed": seed},
        record={"title": threat, "facts": facts, "eps": eps, "seed": seed},
        page_title=f"Accuracy under attack: {threat}",
        intro=_INTRO + (_REJECTS if any(row.beside for row in rows) else ""),
    )  # fmt: skip


def _row(key: str, cells: Mapping[str, Cell], times: bool) -> Row:
    config = next(iter(cells.values())).config
    name = config["defense"]["name"] if key else UNDEFENDED
    label, n = PAPER.label(name) if key else "Undefended", int(config["n"])
    finished = [cell for cell in cells.values() if cell.error is None]
    values = {
        column: cell.columns[column]
        for column in ROBUSTNESS_COLUMNS
        for cell in finished
        if column in cell.columns and not _no_attack(cell, column)
    }
    wanted = [
        knowledge
        for knowledge in ATTACKED
        if knowledge not in cells or not _no_attack(cells[knowledge], knowledge)
    ]
    under = [values[column] for column in wanted if column in values]
    if len(under) == len(wanted) or (under and not key):
        values["worst"] = np.min(under, axis=0)
    findings = (*_zero_gradient(cells), *inconsistencies(values), *_searched(cells)) if key else ()
    return Row(
        key=key, name=name, label=label, n=n, cells=cells, values=values, findings=findings,
        figures={"": {
            column.name: _figure(column, values.get(column.name), _absent(key, column.name, cells),
                                 cells.get(_knowledge(key, column.name)))
            for column in ROBUSTNESS_COLUMNS.values()
        }},
        beside={
            name: _figure(column, refused, "", cells.get(name))
            for name, column in REJECTION_COLUMNS.items()
            if (refused := _first(finished, column.name)) is not None and name in values
        },
        fields={"defense": name},
        record={
            "defense": name, "label": label, "n": n,
            "flags": [{"label": finding.label, "text": finding.text} for finding in findings],
            "cells": {each: cell_record(cell, times=times, kept=KEPT) for each, cell in cells.items()},
        },
    )  # fmt: skip


def _knowledge(key: str, column: str) -> str:
    """Return the kind of knowledge of a column: for the undefended model PGD is its white-box attack."""
    return UNDEFENDED if not key and column == WHITE_BOX else column


def _no_attack(cell: Cell, column: str) -> bool:
    """Tell whether a column would be the result of an attack without a gradient."""
    return column == WHITE_BOX and bool(cell.environment.get("zero_gradient"))


def _searched(cells: Mapping[str, Cell]) -> list[Finding]:
    """Return whether the search that ends the adaptive attack was ahead of it."""
    cell = cells.get(ADAPTIVE)
    if cell is None or cell.error is not None:
        return []
    search = cell.config["attack"]["hyperparameters"].get("search", "")
    return search_ahead(cell.environment.get("felled", ()), search, int(cell.config["n"]))


def _zero_gradient(cells: Mapping[str, Cell]) -> tuple[Finding, ...]:
    cell = cells.get(WHITE_BOX)
    if cell is None or not _no_attack(cell, WHITE_BOX):
        return ()
    text = (
        f"the loss of none of the n = {cell.config['n']} images has a gradient by the image, so PGD on the "
        "model itself was not run: it would have reported random noise as an attack"
    )
    return (Finding(ZERO_GRADIENT, text),)


def _first(cells: Sequence[Cell], column: str) -> np.ndarray | None:
    return next((cell.columns[column] for cell in cells if column in cell.columns), None)


def _absent(key: str, column: str, cells: Mapping[str, Cell]) -> str:
    """Return why a column has no values; empty if it has."""
    if not key and column in (REPLAYED, ADAPTIVE):
        return "no defense"
    if column == "worst":
        return "not all measured"
    if column in cells and _no_attack(cells[column], column):
        return "zero gradient"
    knowledge = _knowledge(key, column)
    asked = list(cells.values()) if column == "clean" else [cells[knowledge]] if knowledge in cells else []
    return "failed" if any(cell.error is not None for cell in asked) else "not measured"


def _figure(column: Column, values: np.ndarray | None, absent: str, cell: Cell | None) -> Figure:
    summary = None if values is None else summarise(column, values, np.ones(len(values)))
    nothing = Printed(math.nan, "the paper has no such column")
    return build.figure(column, summary, absent, nothing, (), cell)

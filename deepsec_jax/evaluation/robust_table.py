"""Cells of defenses under attack as tables: clean, replayed, white-box, adaptive, side by side.

A table holds one threat: one radius, one sample, one adaptive attack.  Nothing is averaged over attacks or
over threats; ``worst`` is taken image by image.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepsec_jax.evaluation import defense_published
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, UNDEFENDED, WHITE_BOX
from deepsec_jax.evaluation.defense_flags import ZERO_GRADIENT, Flag, flags
from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.evaluation.published_file import Printed
from deepsec_jax.evaluation.robustness import REJECTION_COLUMNS, ROBUSTNESS_COLUMNS
from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.runs.cells import Cell

ATTACKED = (REPLAYED, WHITE_BOX, ADAPTIVE)
"""What a defense is attacked by, the attacker who knows least first."""

JOINT = ("weights", "confident")
"""Hyperparameters that the adaptive attack has on a model with a detector only."""

_NOTHING = Summary(math.nan, 0, math.nan, math.nan)


@dataclass(frozen=True)
class RobustRow:
    """One model under attack.

    Attributes:
        key: tells the defense from others, see :func:`defense_key`; empty for the undefended model.
        name: preset row, e.g. ``pat@fast``; ``undefended``.
        label: the paper's name of it.
        n: number of images.
        cells: access -> cell.
        columns: column -> one value per image, of those that are there.
        entries: column name -> figure.
        rejected: column name -> figure: how many of its images were rejected; empty of a model that cannot.
        flags: what is out of order.
    """

    key: str
    name: str
    label: str
    n: int
    cells: dict[str, Cell]
    columns: dict[str, np.ndarray]
    entries: dict[str, Entry]
    rejected: dict[str, Entry]
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class ThreatTable:
    """Models under the same attacks, on the same images.

    Attributes:
        title: norm, radius, images.
        facts: what the attacks were, label -> text.
        eps: radius.
        seed: of the sample and the attacks.
        rows: the undefended model first, then defenses in the paper's order.
    """

    title: str
    facts: dict[str, str]
    eps: float
    seed: int
    rows: tuple[RobustRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table."""
        return tuple(ROBUSTNESS_COLUMNS.values())


def defense_key(cell: Cell) -> str:
    """Return what tells a cell's defense from others: its settings and its weights."""
    decided = {"defense": cell.config.get("defense"), "weights": cell.config["weights"].get("defended")}
    return json.dumps(decided, sort_keys=True) if decided["defense"] else ""


def threat_tables(cells: Iterable[Cell]) -> list[ThreatTable]:
    """Sort cells under attack, of one undefended model, into tables in the order in which each comes up."""
    threats: dict[str, list[Cell]] = {}
    for cell in cells:
        decided = [cell.config[name] for name in ("eps", "n", "seed", "images")]
        threats.setdefault(json.dumps(decided), []).append(cell)
    return [table for group in threats.values() for table in _tables(group)]


def _tables(cells: Sequence[Cell]) -> list[ThreatTable]:
    """Return one table per adaptive attack; a defense without any stands in the first."""
    adaptive = {_attack(cell): None for cell in cells if cell.config["access"] == ADAPTIVE}
    by_defense: dict[str, list[Cell]] = {}
    for cell in cells:
        by_defense.setdefault(defense_key(cell), []).append(cell)
    tables = []
    for index, wanted in enumerate(adaptive or {"": None}):
        rows = []
        for key, group in by_defense.items():
            chosen = {
                cell.config["access"]: cell
                for cell in group
                if cell.config["access"] != ADAPTIVE or _attack(cell) == wanted
            }
            others = any(cell.config["access"] == ADAPTIVE for cell in group)
            if not key or ADAPTIVE in chosen or (not others and index == 0):
                rows.append(_row(key, chosen))
        rows.sort(key=lambda row: (bool(row.key), defense_published.position(row.name)))
        if any(row.key for row in rows):
            tables.append(_table(tuple(rows)))
    return tables


def _attack(cell: Cell) -> str:
    """Return what tells an attack from others; what it does to a detector is its way with such a model."""
    attack = cell.config["attack"]
    values = {name: value for name, value in attack["hyperparameters"].items() if name not in JOINT}
    return json.dumps({**attack, "hyperparameters": values}, sort_keys=True)


def _table(rows: tuple[RobustRow, ...]) -> ThreatTable:
    cells = {access: cell for row in rows for access, cell in row.cells.items()}
    adaptive = [row.cells[ADAPTIVE].config["attack"] for row in rows if ADAPTIVE in row.cells]
    config = next(iter(cells.values())).config
    facts = {}
    for access in (UNDEFENDED, WHITE_BOX):
        if access in cells:
            facts["Replayed and white-box"] = attack_in_words(cells[access].config["attack"])
    for attack in adaptive:
        joint = any(name in attack["hyperparameters"] for name in JOINT)
        facts["Adaptive, on detectors" if joint else "Adaptive"] = attack_in_words(attack)
    title = f"L∞, ε = {eps_in_words(config['eps'])}, n = {config['n']} test images, seed {config['seed']}"
    return ThreatTable(title, facts, float(config["eps"]), int(config["seed"]), rows)


def attack_in_words(attack: dict[str, Any]) -> str:
    """Return what an attack is in one line."""
    values = attack["hyperparameters"]
    steps = f"PGD, {values['steps']} steps of {values['step_size']:.4g}"
    if values.get("rule") == "cosine":
        steps += " at first, shrinking to 0"
    if "decay" in values:
        steps += f", along a momentum of {values['decay']:g}"
    if attack["name"] != "cascade":
        return f"{steps} from a random start; as many as in the paper, and as long against ε"
    losses = ", then ".join(values["losses"])
    runs = f"{values['restarts']} restarts each of loss {losses}"
    if "weights" in values:
        shares = ", ".join(f"{weight:g}" for weight in values["weights"])
        runs = (
            f"first {values['confident']} on the model without its detector for the largest margin, then on "
            f"both at once, weight {shares} of the detector in turn, {runs}"
        )
    if "queries" in values:
        runs = f"{runs}, then a search of {values['queries']} queries by squares"
    return f"{steps} through the surrogate, {runs}; each run on the survivors of those before it"


def eps_in_words(eps: float) -> str:
    """Return a radius; one of a whole number of grey levels, and no short decimal, as so many 255ths."""
    levels = 255 * eps
    grey = abs(levels - round(levels)) < 1e-6 and abs(eps - round(eps, 3)) > 1e-9
    return f"{round(levels)}/255" if grey else f"{eps:.4g}"


def _row(key: str, cells: dict[str, Cell]) -> RobustRow:
    config = next(iter(cells.values())).config
    name = config["defense"]["name"] if key else UNDEFENDED
    finished = [cell for cell in cells.values() if cell.error is None]
    columns = {}
    for column in ROBUSTNESS_COLUMNS:
        for cell in finished:
            if column in cell.columns and not _no_attack(cell, column):
                columns[column] = cell.columns[column]
    wanted = [access for access in ATTACKED if access not in cells or not _no_attack(cells[access], access)]
    under = [columns[column] for column in wanted if column in columns]
    if len(under) == len(wanted) or (under and not key):
        columns["worst"] = np.min(under, axis=0)
    return RobustRow(
        key=key, name=name, label=defense_published.label(name) if key else "Undefended",
        n=int(config["n"]), cells=cells, columns=columns,
        entries={
            column.name: _entry(column, columns.get(column.name), _absent(key, column.name, cells))
            for column in ROBUSTNESS_COLUMNS.values()
        },
        rejected={
            name: _entry(column, values, "")
            for name, column in REJECTION_COLUMNS.items()
            if (values := _first(finished, column.name)) is not None and name in columns
        },
        flags=(*_zero_gradient(cells), *flags(columns)) if key else (),
    )  # fmt: skip


def _no_attack(cell: Cell, column: str) -> bool:
    """Tell whether a column of a cell would be the answer of an attack that had nothing to climb."""
    return column == WHITE_BOX and bool(cell.environment.get("zero_gradient"))


def _zero_gradient(cells: dict[str, Cell]) -> tuple[Flag, ...]:
    cell = cells.get(WHITE_BOX)
    if cell is None or not _no_attack(cell, WHITE_BOX):
        return ()
    text = (
        f"the loss of none of the n = {cell.config['n']} images has a gradient by the image, so PGD on the "
        "model itself was not run: it would have reported random noise as an attack"
    )
    return (Flag(ZERO_GRADIENT, text),)


def _first(cells: Sequence[Cell], column: str) -> np.ndarray | None:
    return next((cell.columns[column] for cell in cells if column in cell.columns), None)


def _absent(key: str, column: str, cells: dict[str, Cell]) -> str:
    """Return why a column has no values, where it has none."""
    if not key and column in (REPLAYED, ADAPTIVE):
        return "no defense"
    if column == "worst":
        return "not all measured"
    if column in cells and _no_attack(cells[column], column):
        return "zero gradient"
    access = UNDEFENDED if not key else column
    asked = list(cells.values()) if column == "clean" else [cells[access]] if access in cells else []
    return "failed" if any(cell.error is not None for cell in asked) else "not measured"


def _entry(column: Column, values: np.ndarray | None, absent: str) -> Entry:
    summary = _NOTHING if values is None else summarise(column, values, np.ones(len(values)))
    nothing = Printed(math.nan, "the paper has no such column")
    return Entry(column, summary, "" if summary.n else absent, nothing, ())

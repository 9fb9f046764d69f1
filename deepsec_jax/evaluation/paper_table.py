"""Cells as rows of a table in the paper's shape: our figures, the printed ones, and why they differ.

Cells that share data, model, settings, seed and candidates are one :class:`Section`, so that all figures of
a table are over the same images.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.evaluation import published
from deepsec_jax.evaluation.paper_title import Used, changed_hyperparameters, why_untitled
from deepsec_jax.evaluation.published_file import Printed, Reason
from deepsec_jax.evaluation.subject import defense_in_words
from deepsec_jax.metrics import METRICS, Column, Summary, summarise
from deepsec_jax.runs.cells import Cell

TIMED = ("s", "bare gradients")
"""Units of the columns that depend on the clock."""

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
_NOTHING = Summary(math.nan, 0, math.nan, math.nan)


@dataclass(frozen=True)
class Entry:
    """One figure of a table.

    Attributes:
        column: what it is.
        summary: mean, n and 95 % interval; NaN and 0 where there is none.
        absent: why there is none; empty if there is one.
        printed: what the paper prints.
        reasons: why the two may differ; empty where there is nothing to compare.
    """

    column: Column
    summary: Summary
    absent: str
    printed: Printed
    reasons: tuple[Reason, ...]

    @property
    def difference(self) -> float:
        """Ours less the paper's; NaN where one is missing."""
        return self.summary.mean - self.printed.value

    @property
    def inside(self) -> bool:
        """Whether the printed number lies in our 95 % interval, to the digits it is printed with."""
        fine = self.column.unit == "s" or self.column.section == "II-D"
        half = 0.00005 if fine else 0.0005
        return self.summary.low - half <= self.printed.value <= self.summary.high + half


@dataclass(frozen=True)
class TableRow:
    """One attack on one candidate set.

    Attributes:
        cell: the folder it was read from.
        name: preset row, e.g. ``fgsm@0.5``.
        label: the paper's name of it.
        goal: ``UAs`` or ``TAs``, by what the attack was asked for.
        objective: norm that it keeps small or within eps.
        n: number of candidates.
        hits: how many of them it succeeded on; 0 if the cell failed.
        entries: column name -> figure.
    """

    cell: Cell
    name: str
    label: str
    goal: str
    objective: str
    n: int
    hits: int
    entries: dict[str, Entry]


@dataclass(frozen=True)
class Section:
    """Attacks on one model with one candidate set.

    Attributes:
        title: heading; the paper's only where everything is the paper's.
        note: why it is not; empty if it is.
        facts: what was attacked and how, label -> text.
        dataset: data set name.
        preset: kind of preset.
        rows: in the paper's order, untargeted attacks first.
        columns: those of the table.
        further: measured columns that only the details show.
        missing: rows of the paper's table without a cell, each with the reason.
    """

    title: str
    note: str
    facts: dict[str, str]
    dataset: str
    preset: str
    rows: tuple[TableRow, ...]
    columns: tuple[Column, ...]
    further: tuple[Column, ...]
    missing: dict[str, str]


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Sort cells into sections, in the order in which each first comes up.

    Args:
        cells: finished and failed ones.
        times: whether to keep what depends on the clock and the machine's load.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        decided = {key: cell.config.get(key) for key in ("data", "model", "n", "seed", "candidates")}
        decided["preset"] = _preset(cell)
        groups.setdefault(json.dumps(decided, sort_keys=True, default=str), []).append(cell)
    return [_section(group, times) for group in groups.values()]


def name_of(value: Any) -> str:
    """Return the name of a data set or model in a config: a plain name, or the field of that name."""
    if isinstance(value, Mapping):
        return str(value.get("name") or value.get("recipe") or value.get("path") or "unnamed")
    return str(value)


def groups(rows: Iterable[TableRow]) -> dict[tuple[str, str], list[TableRow]]:
    """Return (UAs or TAs, objective) -> rows."""
    found: dict[tuple[str, str], list[TableRow]] = {}
    for row in rows:
        found.setdefault((row.goal, row.objective), []).append(row)
    return found


def _preset(cell: Cell) -> str:
    return str(cell.config.get("attack", {}).get("preset"))


def _section(cells: Sequence[Cell], times: bool) -> Section:
    config = cells[0].config
    dataset, preset = name_of(config.get("data")), _preset(cells[0])
    model = name_of(config.get("model"))
    kept = [column for column in METRICS.values() if times or column.unit not in TIMED]
    measured = {name for cell in cells for name in cell.columns}
    note = _why_untitled(cells, dataset, preset)
    rows = [_row(cell, dataset, preset, kept, note) for cell in cells]
    rows.sort(key=lambda row: (row.goal != "UAs", published.position(row.name)))
    further = [c for c in kept if c.name in measured and (not c.quick or _hidden(c, rows))]
    return Section(
        title=f"Attacks on {model}, {dataset}, {preset} settings"
        if note
        else f"{published.table_title(dataset)} and ours",
        note=note,
        facts=_facts(cells, times),
        dataset=dataset,
        preset=preset,
        rows=tuple(row for rows_of_group in groups(rows).values() for row in rows_of_group),
        columns=tuple(
            c
            for c in kept
            if c.quick
            and (c.name in measured or c.name in published.columns())
            and (not c.needs_rejection or any(row.entries[c.name].summary.n for row in rows))
            and not _hidden(c, rows)
        ),
        further=tuple(further),
        missing=_missing(dataset, preset, {row.name for row in rows}),
    )


def _why_untitled(cells: Sequence[Cell], dataset: str, preset: str) -> str:
    """Return why the section does not stand under the paper's title; empty if it does."""
    changed = [
        published.label(name)
        for cell in cells
        if (name := str(cell.config["attack"]["name"])) in published.rows_of(dataset)
        and changed_hyperparameters(cell.config["attack"], dataset, preset)
    ]
    used = Used(
        dataset, cells[0].config.get("model"), cells[0].config.get("images"),
        {"the hyperparameters are": preset},
        {"hyperparameters of": changed if preset == "paper" else ()},
    )  # fmt: skip
    return why_untitled(published.table_of(dataset), published.LACKING, "the model", used)


def _hidden(column: Column, rows: Sequence[TableRow]) -> bool:
    """Tell whether a column would be a column of noughts that says nothing."""
    return column.hides_zero and not any(row.entries[column.name].summary.mean > 0 for row in rows)


def _missing(dataset: str, preset: str, present: set[str]) -> dict[str, str]:
    if preset != "paper":
        return {}
    return {
        published.label(name): "not in this run"
        if name.partition("@")[0] in ATTACKS
        else "not in deepsec_jax yet"
        for name in published.rows_of(dataset)
        if name not in present
    }


def _row(cell: Cell, dataset: str, preset: str, columns: Sequence[Column], note: str) -> TableRow:
    name = str(cell.config["attack"]["name"])
    success = cell.arrays.get("success", np.zeros(0))
    goal, objective = _goal_and_objective(cell, name)
    return TableRow(
        cell=cell, name=name, label=published.label(name), goal=goal, objective=objective,
        n=len(success) or int(cell.config.get("n", 0)),
        hits=int((success >= 0.5).sum()),
        entries={column.name: _entry(cell, column, dataset, preset, name, note) for column in columns},
    )  # fmt: skip


def _goal_and_objective(cell: Cell, name: str) -> tuple[str, str]:
    filed = published.group(name)
    card = getattr(ATTACKS.get(name.partition("@")[0]), "card", None)
    if "targets" in cell.arrays:
        goal = "TAs" if bool((cell.arrays["targets"] >= 0).any()) else "UAs"
    elif filed:
        goal = filed[0]
    else:
        goal = "TAs" if card is not None and card.goal == "targeted" else "UAs"
    norm = str(cell.config["attack"].get("hyperparameters", {}).get("norm", ""))
    objective = _NORMS.get(norm) or (filed[1] if filed else card.kind if card is not None else "other")
    return goal, objective


def _entry(cell: Cell, column: Column, dataset: str, preset: str, name: str, note: str) -> Entry:
    values, success = cell.columns.get(column.name), cell.arrays.get("success")
    summary = _NOTHING if values is None or success is None else summarise(column, values, success)
    said = published.printed(dataset, preset, name, column.name)
    compared = summary.n > 0 and not said.absent
    another = (Reason("another model", note),) if note else ()
    return Entry(
        column=column,
        summary=summary,
        absent=_absent(cell, column, summary),
        printed=said,
        reasons=(*another, *published.reasons(dataset, name, column.name)) if compared else (),
    )


def _absent(cell: Cell, column: Column, summary: Summary) -> str:
    if summary.n:
        return ""
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


def _facts(cells: Sequence[Cell], times: bool) -> dict[str, str]:
    config = cells[0].config
    preset = _preset(cells[0])
    facts = model_facts(config)
    facts["Hyperparameters"] = f"{preset}, each with its source under the attack"
    facts["Candidates"] = (
        f"n = {config.get('n')}, correctly classified test images, seed {config.get('seed')}"
    )
    facts["Device"] = all_said(cells, lambda environment: environment.get("device"))
    facts["Versions"] = all_said(cells, lambda environment: environment.get("versions"))
    if times:
        facts["Batch size"] = all_said(cells, lambda environment: environment.get("batch_size"))
    return {label: text for label, text in facts.items() if text}


def model_facts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a config says of data set and model, label -> text."""
    facts = {"Data": name_of(config.get("data")), "Model": name_of(config.get("model"))}
    said = config["model"] if isinstance(config.get("model"), Mapping) else {}
    facts |= {_words(key): _said(key, value) for key, value in said.items() if _plain(key, value)}
    if "recipe" in said:
        facts["Recipe"] = name_of(said["recipe"])
    if isinstance(said.get("defense"), Mapping):
        facts["Defense"] = defense_in_words(said["defense"])
    return facts


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _said(key: str, value: Any) -> str:
    return f"{100 * value:.2f} %" if key.endswith("accuracy") else str(value)


def _plain(key: str, value: Any) -> bool:
    return (
        key not in ("name", "trained_on")
        and isinstance(value, str | int | float)
        and not isinstance(value, bool)
    )


def all_said(cells: Sequence[Cell], take: Callable[[dict[str, Any]], Any]) -> str:
    """Return what all environments say of one thing, each answer once."""
    answers: dict[str, None] = {}
    for cell in cells:
        value = take(cell.environment)
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        if value is not None:
            answers[str(value)] = None
    return "; ".join(sorted(answers))

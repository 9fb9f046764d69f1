"""Cells of defenses as the paper's Table IV and as tables under attack: our figures, the printed ones, why.

Cells that share data, undefended model, test images and kind of preset are one :class:`DefenseSection`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepsec_jax.defenses import DEFENSES
from deepsec_jax.evaluation import defense_published
from deepsec_jax.evaluation.paper_numbers import figure, interval
from deepsec_jax.evaluation.paper_table import Entry, all_said, model_facts, name_of
from deepsec_jax.evaluation.paper_title import Used, changed_settings, why_untitled
from deepsec_jax.evaluation.published_file import Reason
from deepsec_jax.evaluation.robust_table import ThreatTable, defense_key, threat_tables
from deepsec_jax.evaluation.utility import ACCURACY, REJECTED, utility_columns
from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.runs.cells import ROBUSTNESS, SIGHT, UTILITY, Cell

_NOTHING = Summary(math.nan, 0, math.nan, math.nan)


@dataclass(frozen=True)
class DefenseRow:
    """One defense on clean test images.

    Attributes:
        key: tells it from others, see ``robust_table.defense_key``.
        name: preset row, e.g. ``pat@fast``.
        label: the paper's name of it.
        category: what the paper files it under.
        about: ``defense`` of its config.
        cell: its ``utility`` cell, of several the one over most images; None if only cells under attack are
            there.
        entries: column name -> figure.
        changed: settings that are not the preset's.
    """

    key: str
    name: str
    label: str
    category: str
    about: dict[str, Any]
    cell: Cell | None
    entries: dict[str, Entry]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class DefenseSection:
    """Defenses of one undefended model.

    Attributes:
        title: heading; the paper's only where everything is the paper's.
        about: the same without the paper's title, for what the paper has no table of.
        note: why it is not; empty if it is.
        facts: what was defended and how, label -> text.
        dataset: data set name.
        base: what the undefended model is called.
        preset: kind of preset.
        rows: in the paper's order.
        columns: those of the table.
        threats: the defenses under attack.
        cells: all cells of the section.
        missing: rows of the paper's table that are not here, each with the reason.
    """

    title: str
    about: str
    note: str
    facts: dict[str, str]
    dataset: str
    base: str
    preset: str
    rows: tuple[DefenseRow, ...]
    columns: tuple[Column, ...]
    threats: tuple[ThreatTable, ...]
    cells: tuple[Cell, ...]
    missing: dict[str, str]


def defense_sections(cells: Iterable[Cell], *, times: bool = True) -> list[DefenseSection]:
    """Sort the cells of defenses into sections, in the order in which each first comes up.

    Args:
        cells: finished and failed ones of any kind.
        times: whether to keep what depends on the clock and the machine's load.
    """
    undefended: dict[str, list[Cell]] = {}
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.kind not in (UTILITY, ROBUSTNESS, SIGHT):
            continue
        decided = {name: cell.config[name] for name in ("data", "model", "images")}
        base = json.dumps({**decided, "raw": cell.config["weights"]["raw"]}, sort_keys=True)
        if "defense" in cell.config:
            groups.setdefault((base, str(cell.config["defense"]["preset"])), []).append(cell)
        else:
            undefended.setdefault(base, []).append(cell)
    return [_section(kind, group, undefended.get(base, []), times) for (base, kind), group in groups.items()]


def _section(kind: str, cells: Sequence[Cell], undefended: Sequence[Cell], times: bool) -> DefenseSection:
    config = cells[0].config
    dataset, base = name_of(config["data"]), name_of(config["model"])
    used = Used(
        dataset, config["model"], config["images"], {"the defenses are of preset": kind},
        {"settings of": _changed_labels(cells, dataset, kind)},
    )  # fmt: skip
    table, lacking = defense_published.table_of(dataset), defense_published.LACKING
    note = why_untitled(table, lacking, "the undefended model", used)
    by_defense: dict[str, list[Cell]] = {}
    for cell in cells:
        by_defense.setdefault(defense_key(cell), []).append(cell)
    rows = [_row(key, group, dataset, kind, note) for key, group in by_defense.items()]
    rows.sort(key=lambda row: defense_published.position(row.name))
    title = "" if note else defense_published.table_title(dataset)
    about = f"Defenses of {base}, {dataset}, {kind} settings"
    columns = utility_columns(rejecting=any(_rejects(row) for row in rows))
    return DefenseSection(
        title=f"{title} and ours" if title else about, about=about, note=note,
        facts=_facts(cells, undefended, kind, times), dataset=dataset, base=base, preset=kind,
        rows=tuple(replace(row, entries={name: row.entries[name] for name in columns}) for row in rows),
        columns=tuple(columns.values()),
        threats=tuple(
            threat_tables(cell for cell in (*undefended, *cells) if cell.kind == ROBUSTNESS)
        ),
        cells=(*undefended, *cells), missing=_missing(dataset, kind, {row.name for row in rows}),
    )  # fmt: skip


def _rejects(row: DefenseRow) -> bool:
    """Tell whether a defense can refuse an image: only then that column stands in the table."""
    return bool(row.entries[REJECTED.name].summary.n)


def _missing(dataset: str, kind: str, present: set[str]) -> dict[str, str]:
    if kind != "paper":
        return {}
    return {
        defense_published.label(name): "not in this run" if name in DEFENSES else "not in deepsec_jax yet"
        for name in defense_published.rows_of(dataset)
        if name not in present
    }


def _row(key: str, cells: Sequence[Cell], dataset: str, kind: str, note: str) -> DefenseRow:
    about = cells[0].config["defense"]
    name = str(about["name"])
    cell = max((cell for cell in cells if cell.kind == UTILITY), key=_images, default=None)
    changed = _changed(cells[0], dataset, kind, _channels(cells))
    others = [Reason("another model or training", note)] if note else []
    if changed:
        others.append(Reason("other settings", f"{', '.join(changed)}: not those of the preset."))
    return DefenseRow(
        key=key, name=name, label=defense_published.label(name), category=defense_published.category(name),
        about=about, cell=cell, changed=changed,
        entries={
            column.name: _entry(cell, column, dataset, name, others)
            for column in utility_columns(rejecting=True).values()
        },
    )  # fmt: skip


def _images(cell: Cell) -> float:
    """Return how many clean images a cell is over, to compare; none if it failed."""
    return -1 if cell.error is not None else cell.config.get("n", math.inf)


def _channels(cells: Sequence[Cell]) -> int | None:
    return next((cell.arrays["x"].shape[3] for cell in cells if "x" in cell.arrays), None)


def _changed(cell: Cell, dataset: str, kind: str, channels: int | None) -> tuple[str, ...]:
    """Return the settings of a cell's defense that are not its preset's."""
    model = cell.config["model"]
    base = model.get("recipe") if isinstance(model, Mapping) else None
    return changed_settings(cell.config["defense"], dataset, kind, channels, base)


def _changed_labels(cells: Sequence[Cell], dataset: str, kind: str) -> list[str]:
    """Return the paper's names of the defenses whose settings are not the paper's, each once."""
    if kind != "paper":
        return []
    labels = (
        defense_published.label(str(cell.config["defense"]["name"]))
        for cell in cells
        if _changed(cell, dataset, kind, None)
    )
    return list(dict.fromkeys(labels))


def _entry(cell: Cell | None, column: Column, dataset: str, name: str, others: Sequence[Reason]) -> Entry:
    values = None if cell is None else cell.columns.get(column.name)
    summary = _NOTHING
    if cell is not None and values is not None:
        both = np.minimum(cell.arrays["correct_raw"], cell.arrays["correct"])
        summary = summarise(column, values, both)
    said = defense_published.printed(dataset, name, column.name)
    compared = summary.n > 0 and not said.absent
    return Entry(
        column=column, summary=summary, absent="" if summary.n else _absent(cell, column), printed=said,
        reasons=(*others, *defense_published.reasons(dataset, name, column.name)) if compared else (),
    )  # fmt: skip


def _absent(cell: Cell | None, column: Column) -> str:
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


def _facts(cells: Sequence[Cell], undefended: Sequence[Cell], kind: str, times: bool) -> dict[str, str]:
    facts = model_facts(cells[0].config)
    facts["Undefended model"] = facts.pop("Model")
    clean = max((cell for cell in cells if cell.kind == UTILITY), key=_images, default=None)
    if clean is not None and clean.error is None:
        correct = clean.arrays["correct_raw"]
        summary = summarise(ACCURACY, correct, np.ones(len(correct)))
        facts["Undefended accuracy"] = (
            f"{figure(ACCURACY, summary.mean)} ({interval(ACCURACY, summary)}) of n = {summary.n}"
        )
        facts.pop("Test accuracy", None)
    paper = defense_published.undefended(name_of(cells[0].config["data"]))
    if not math.isnan(paper):
        facts["Undefended accuracy, paper"] = figure(ACCURACY, paper)
    facts["Hyperparameters"] = f"{kind}, each with its source under the defense"
    every = (*undefended, *cells)
    facts["Device"] = all_said(every, lambda environment: environment.get("device"))
    facts["Versions"] = all_said(every, lambda environment: environment.get("versions"))
    if times:
        facts["Batch size"] = all_said(every, lambda environment: environment.get("batch_size"))
    return {label: text for label, text in facts.items() if text}

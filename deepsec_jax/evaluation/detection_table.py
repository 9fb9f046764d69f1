"""Cells of detectors as the paper's Tables XVI, VI and VII: our figures, the printed ones, why.

Cells that share data, model, test images, candidates and the attacks' kind of preset are one
:class:`DetectionSection`: every figure of it is over the same clean test images.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deepsec_jax.defenses import DETECTORS
from deepsec_jax.evaluation import detection_published, published
from deepsec_jax.evaluation.detection_entries import DetectorHead, entry_of, heads_of, key_of
from deepsec_jax.evaluation.detection_sweep import SweepRow, sweep_rows
from deepsec_jax.evaluation.paper_table import Entry, all_said, model_facts, name_of
from deepsec_jax.evaluation.paper_title import Used, changed_hyperparameters, why_untitled
from deepsec_jax.evaluation.published_file import Printed
from deepsec_jax.metrics import DETECTION_METRICS, Column
from deepsec_jax.runs.cells import CLEAN, DETECTION, SWEEP, Cell


@dataclass(frozen=True)
class DetectionRow:
    """One attack, and what each detector makes of its images.

    Attributes:
        name: preset row of the attack.
        label: the paper's name of it.
        goal: ``UAs`` or ``TAs``, as the paper files it.
        objective: norm that it keeps small or within eps.
        n: number of candidates.
        hits: how many of them it succeeded on; 0 if no cell is there.
        cells: detector's key -> cell.
        entries: detector's key -> column name -> figure.
    """

    name: str
    label: str
    goal: str
    objective: str
    n: int
    hits: int
    cells: dict[str, Cell]
    entries: dict[str, dict[str, Entry]]


@dataclass(frozen=True)
class DetectionSection:
    """Detectors of one model against one set of attacks.

    Attributes:
        title: heading; the paper's only where everything is the paper's.
        note: why it is not; empty if it is.
        facts: what was attacked and how, label -> text.
        dataset: data set name.
        base: what the model is called.
        preset: kind of the attacks' preset.
        detectors: in the paper's order.
        rows: in the paper's order, untargeted attacks first.
        sweep: plain rows by eps, then carried ones.
        columns: those of the table.
        further: those that only the details show.
        cells: all cells of the section.
        missing: rows and detectors of the paper's table that are not here, each with the reason.
    """

    title: str
    note: str
    facts: dict[str, str]
    dataset: str
    base: str
    preset: str
    detectors: tuple[DetectorHead, ...]
    rows: tuple[DetectionRow, ...]
    sweep: tuple[SweepRow, ...]
    columns: tuple[Column, ...]
    further: tuple[Column, ...]
    cells: tuple[Cell, ...]
    missing: dict[str, str]


def detection_sections(cells: Iterable[Cell], *, times: bool = True) -> list[DetectionSection]:
    """Sort the cells of detectors into sections, in the order in which each first comes up.

    Args:
        cells: finished and failed ones of any kind.
        times: whether to keep what depends on the clock and the machine's load.
    """
    clean: dict[str, list[Cell]] = {}
    attacked: dict[tuple[str, str, str], list[Cell]] = {}
    swept: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.kind not in (CLEAN, DETECTION, SWEEP):
            continue
        decided = {name: cell.config[name] for name in ("data", "model", "images")}
        base = json.dumps({**decided, "raw": cell.config["weights"]["raw"]}, sort_keys=True)
        if cell.kind == CLEAN:
            clean.setdefault(base, []).append(cell)
            continue
        asked = json.dumps([cell.config[name] for name in ("candidates", "n", "seed")])
        if cell.kind == SWEEP:
            swept.setdefault((base, asked), []).append(cell)
        else:
            attacked.setdefault((base, asked, str(cell.config["attack"]["preset"])), []).append(cell)
    for base, asked in swept:
        if not any(key[:2] == (base, asked) for key in attacked):
            attacked[base, asked, "paper"] = []
    for base in clean:
        if not any(key[0] == base for key in attacked):
            attacked[base, "", "paper"] = []
    told: set[tuple[str, str]] = set()
    found = []
    for (base, asked, kind), group in attacked.items():
        sweep = [] if (base, asked) in told else swept.get((base, asked), [])
        told.add((base, asked))
        found.append(_section(kind, clean.get(base, []), group, sweep, times))
    return found


def _section(
    kind: str, clean: Sequence[Cell], attacked: Sequence[Cell], swept: Sequence[Cell], times: bool
) -> DetectionSection:
    cells = (*clean, *attacked, *swept)
    config = cells[0].config
    dataset, base = name_of(config["data"]), name_of(config["model"])
    heads = heads_of(cells, dataset)
    kinds = ", ".join(sorted({str(head.about["preset"]) for head in heads}))
    used = Used(
        dataset, config["model"], config["images"],
        {"the attacks are of preset": kind, "the detectors are of preset": kinds},
        {
            "settings of": [head.label for head in heads if head.changed] if kinds == "paper" else (),
            "hyperparameters of": _changed_attacks((*attacked, *swept), dataset) if kind == "paper" else (),
        },
    )  # fmt: skip
    table, lacking = detection_published.table_of(dataset), detection_published.LACKING
    note = why_untitled(table, lacking, "the model", used)
    about = f"Detectors of {base}, {dataset}, {kind} attacks"
    by_attack: dict[str, dict[str, Cell]] = {}
    for cell in attacked:
        by_attack.setdefault(str(cell.config["attack"]["name"]), {})[key_of(cell)] = cell
    rows = [_row(name, found, heads, dataset, kind, note) for name, found in by_attack.items()]
    rows.sort(key=lambda row: (row.goal != "UAs", published.position(row.name)))
    return DetectionSection(
        title=about if note else f"{detection_published.table_title(dataset)} and ours", note=note,
        facts=_facts(cells, kind, times), dataset=dataset, base=base, preset=kind, detectors=tuple(heads),
        rows=tuple(rows), sweep=tuple(sweep_rows(swept, heads, dataset, note)),
        columns=tuple(column for column in DETECTION_METRICS.values() if column.quick),
        further=tuple(column for column in DETECTION_METRICS.values() if not column.quick),
        cells=cells, missing=_missing(dataset, kind, rows, heads),
    )  # fmt: skip


def _changed_attacks(cells: Sequence[Cell], dataset: str) -> list[str]:
    """Return the paper's names of the attacks whose hyperparameters are not the paper's, each once."""
    found: dict[str, None] = {}
    for cell in cells:
        attack, eps = cell.config["attack"], cell.config.get("eps")
        name = str(attack["name"])
        if name in detection_published.rows_of(dataset) and changed_hyperparameters(
            attack, dataset, "paper", eps=eps
        ):
            found[published.label(name)] = None
    return list(found)


def _missing(
    dataset: str, kind: str, rows: Sequence[DetectionRow], heads: Sequence[DetectorHead]
) -> dict[str, str]:
    if kind != "paper" or not detection_published.rows_of(dataset):
        return {}
    here = {row.name for row in rows}
    found = {
        published.label(name): "not in this run"
        for name in detection_published.rows_of(dataset)
        if name not in here
    }
    watching = {head.name.partition("@")[0] for head in heads}
    return found | {
        detection_published.label(name): "not in this run" if name in DETECTORS else "not in deepsec_jax yet"
        for name in detection_published.detectors()
        if name not in watching
    }


def _row(
    name: str, cells: dict[str, Cell], heads: Sequence[DetectorHead], dataset: str, kind: str, note: str
) -> DetectionRow:
    config = next(iter(cells.values())).config
    finished = {key: cell.arrays for key, cell in cells.items() if cell.error is None}
    images = {key: (arrays["scores"], arrays["success"]) for key, arrays in finished.items()}
    success = next((part[1] for part in images.values()), np.zeros(0))
    norm = str(config["attack"]["hyperparameters"].get("norm", "other"))
    goal, objective = published.group(name) or ("UAs", norm)
    return DetectionRow(
        name=name, label=published.label(name), goal=goal, objective=objective, n=int(config["n"]),
        hits=int((success >= 0.5).sum()), cells=cells,
        entries={
            head.key: {
                column.name: entry_of(
                    column, head, cells.get(head.key), images.get(head.key),
                    _said(dataset, kind, name, head.name, column.name), dataset=dataset, attack=name,
                    note=note,
                )
                for column in DETECTION_METRICS.values()
            }
            for head in heads
        },
    )  # fmt: skip


def _said(dataset: str, kind: str, attack: str, detector: str, column: str) -> Printed:
    if kind != "paper":
        return Printed(math.nan, f"the paper has no {kind} attacks")
    return detection_published.printed(dataset, attack, detector, column)


def _facts(cells: Sequence[Cell], kind: str, times: bool) -> dict[str, str]:
    facts = model_facts(cells[0].config)
    facts["Attacks"] = f"{kind} settings; they know the model, and nothing of a detector"
    sets = {(cell.config["n"], cell.config["seed"]): None for cell in cells if "n" in cell.config}
    if sets:
        facts["Candidates"] = "; ".join(
            f"n = {n}, correctly classified test images, seed {seed}" for n, seed in sets
        )
    for cell in cells:
        if cell.kind == CLEAN and cell.error is None:
            correct = cell.arrays["correct"]
            facts["Clean images"] = (
                f"all {len(correct)} test images, {int((correct >= 0.5).sum())} classified correctly; "
                "the same for every attack"
            )
            break
    facts["Device"] = all_said(cells, lambda environment: environment.get("device"))
    facts["Versions"] = all_said(cells, lambda environment: environment.get("versions"))
    if times:
        facts["Batch size"] = all_said(cells, lambda environment: environment.get("batch_size"))
    return {label: text for label, text in facts.items() if text}

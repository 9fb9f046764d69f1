"""The card of a model folder: what ``deepsec robustness`` found, as a file beside the weights."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.atomic import write_atomic
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.verdict.gates import gates
from deepsec_jax.studies.verdict.jobs import ACCURACY
from deepsec_jax.studies.verdict.options import Options
from deepsec_jax.studies.verdict.sentences import CLEAN, ROBUST, verdict

ELSEWHERE = {"model", "run_dir", "data_dir", "spec", "dry_run", "card", "wait", "batch_size", "devices"}
"""Options that do not belong to the command of a card: they change places and times, and no figure."""


def card_of(cells: Sequence[Cell], command: str, digest: str) -> dict[str, Any]:
    """Return the entries of a card.

    Args:
        cells: of one verdict, all finished.
        command: that measures them again.
        digest: of the folder's weights.
    """
    cell = next(cell for cell in cells if cell.config["question"] == ACCURACY)
    return {
        "command": command, "digest": digest, "measured": cell.environment["finished"],
        "data": cell.config["data"], "images": cell.config["images"], "n": int(cell.config["n"]),
        "seed": int(cell.config["seed"]), "norm": cell.config["norm"], "eps": float(cell.config["eps"]),
        "clean": _share(CLEAN, cell), "robust": _share(ROBUST, cell),
        "gates": [str(gate) for gate in gates(cells) if gate.closed], "verdict": verdict(cells),
        "versions": cell.environment["versions"],
    }  # fmt: skip


def _share(column: Column, cell: Cell) -> dict[str, float]:
    values = cell.columns[column.name]
    found = summarise(column, values, values >= 0)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def command_of(options: Options) -> str:
    """Return the command that measures a card again: the options that decide its figures."""
    words = ["deepsec", "robustness", str(options.model)]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in ELSEWHERE and (value != field.default or field.name == "n"):
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return " ".join([*words, "--card"])


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Write a card over an earlier one."""
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, lambda aside: aside.write_text(text, "utf-8"), replace=True)

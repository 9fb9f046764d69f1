"""What the page shows of one defense: hyperparameters, training, pictures, and figures beside the paper's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deepsec_jax.answers import NO_CLASS
from deepsec_jax.catalog import UnknownName
from deepsec_jax.defenses import DEFENSES, preset_card
from deepsec_jax.evaluation import figures
from deepsec_jax.evaluation.attack_details import compared
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, WHITE_BOX
from deepsec_jax.evaluation.defense_table import DefenseRow, DefenseSection
from deepsec_jax.evaluation.defense_warnings import kept_epoch
from deepsec_jax.evaluation.picture_grid import class_in_words, example, examples_of, sight_example
from deepsec_jax.evaluation.robust_table import RobustRow, defense_key, eps_in_words
from deepsec_jax.runs.cells import SIGHT, Cell
from deepsec_jax.training import RECIPES

_WORDS = {WHITE_BOX: "White-box", ADAPTIVE: "Adaptive"}


def defense_details(row: DefenseRow, section: DefenseSection, anchor: str) -> dict[str, Any]:
    """Return what the template shows of one defense.

    Args:
        row: the defense.
        section: where it stands.
        anchor: id of its place in the page.
    """
    under = [(threat, found) for threat in section.threats for found in threat.rows if found.key == row.key]
    cells = [cell for cell in (row.cell, *(c for _, found in under for c in found.cells.values())) if cell]
    finished = [cell for cell in cells if cell.error is None]
    kind = DEFENSES.get(row.name.partition("@")[0])
    training: Mapping[str, Any] = _first_said(finished, "training") or {}
    attacked = [
        {"title": threat.title,
         "entries": [compared(entry) for entry in (*found.entries.values(), *found.rejected.values())],
         "flags": found.flags}
        for threat, found in under
    ]  # fmt: skip
    return {
        "anchor": anchor,
        "row": row,
        "title": kind.card.title if kind else "",
        "reference": kind.card.reference if kind else "",
        "folder": _first_said(finished, "folder") or "",
        "errors": [f"{cell.config.get('access', cell.kind).replace('_', '-')}: {cell.error}"
                   for cell in cells if cell.error is not None],
        "fields": _fields(row, section, _channels(finished)),
        "recipe": _recipe(row, section, training),
        "charts": _charts(training, anchor, finished),
        "pictures": _pictures([found for _, found in under]),
        "rejects": any(found.rejected for _, found in under),
        "entries": [compared(row.entries[column.name]) for column in section.columns],
        "attacked": attacked,
    }  # fmt: skip


def _first_said(cells: Sequence[Cell], name: str) -> Any:
    return next((cell.environment[name] for cell in cells if cell.environment.get(name)), None)


def _channels(cells: Sequence[Cell]) -> int | None:
    return next((cell.arrays["x"].shape[3] for cell in cells if "x" in cell.arrays), None)


def _fields(row: DefenseRow, section: DefenseSection, channels: int | None) -> list[dict[str, str]]:
    """Return the settings with their sources; those that are not the preset's are said to be set."""
    try:
        card = preset_card(row.name, section.dataset, section.preset, channels=channels)
    except UnknownName:
        card = {}
    changed = {"source": "set for this run", "reason": ""}
    usual = {"source": "default of the class", "reason": ""}
    return [
        {**(changed if name in row.changed else card.get(name, usual)), "name": name, "value": said(value)}
        for name, value in row.about["settings"].items()
    ]


def said(value: Any) -> str:
    """Return a setting as a page says it: pairs as name = value, lists with commas."""
    if isinstance(value, list | tuple):
        if value and all(isinstance(part, list | tuple) and len(part) == 2 for part in value):
            return ", ".join(f"{name} = {said(part)}" for name, part in value)
        return ", ".join(map(said, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _recipe(row: DefenseRow, section: DefenseSection, training: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the fields of the training's recipe, those of the undefended model's beside what differs."""
    recipe = row.about["recipe"]
    known = section.cells[0].config["model"].get("recipe")
    named = RECIPES.get(str(known))  # runs of version 0.1 kept its name only
    usual = known if isinstance(known, Mapping) else named.to_dict() if named else {}
    fields = [
        {
            "name": name.replace("_", " "), "value": said(value),
            "base": said(usual[name]) if name in usual and usual[name] != value else "",
        }
        for name, value in recipe.items()
        if name not in ("name", "source", "data")
    ]  # fmt: skip
    if "best_epoch" in training:
        fields.append({"name": "epoch kept", "value": str(training["best_epoch"] + 1), "base": ""})
    return fields


def _charts(training: Mapping[str, Any], anchor: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    history = training.get("history", ())
    if not kept_epoch(training):
        return []
    classes = next(cell.arrays["probabilities"].shape[1] for cell in cells)
    kept = int(training["best_epoch"]) + 1
    return [
        {"title": "Validation accuracy by epoch", "svg": Markup(
            figures.accuracy_by_epoch(f"{anchor}-a", history, classes=classes, kept=kept))},
        {"title": "Training loss by epoch", "svg": Markup(figures.loss_by_epoch(f"{anchor}-l", history))},
    ]  # fmt: skip


def _pictures(rows: Sequence[RobustRow]) -> dict[str, Any] | None:
    """Return the grid of clean and adversarial images of the strongest attack that is there."""
    for access in (ADAPTIVE, WHITE_BOX):
        for row in rows:
            cell = row.cells.get(access)
            if cell is not None and cell.error is None:
                title = f"{_WORDS[access]} adversarial images, ε = {eps_in_words(cell.config['eps'])}"
                return {"title": title, "examples": _examples(cell)}
    return None


SHOWN = 3
"""Images of each defense in the overview of what defenses do to an image."""


def sights(section: DefenseSection, anchors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what the template shows of each defense's sight of a few images, in the table's order."""
    cells: dict[str, Cell] = {}
    for each in section.cells:
        if each.kind == SIGHT and each.error is None:
            cells.setdefault(defense_key(each), each)
    found = []
    for row in section.rows:
        if row.key not in cells:
            continue
        cell = cells[row.key]
        names = [str(name) for name in cell.environment["class_names"]]
        unchanged = np.array_equal(cell.arrays["seen"], cell.arrays["x"])
        found.append({
            "row": row, "anchor": anchors[row.key], "unchanged": unchanged,
            "eps": eps_in_words(cell.config["eps"]),
            "examples": [sight_example(cell.arrays, names, index) for index in range(SHOWN)],
        })  # fmt: skip
    return found


def _examples(cell: Cell) -> list[dict[str, Any]]:
    arrays = cell.arrays
    names = [str(name) for name in cell.environment["class_names"]]
    robust = np.minimum(arrays["clean"], arrays["correct"])
    return [
        example(
            arrays["x"][index], arrays["x_adv"][index], label=names[arrays["labels"][index]],
            predicted=class_in_words(arrays["predicted"][index], names),
            confidence=float(arrays["confidence"][index]),
            success=bool(robust[index] < 0.5 and arrays["predicted"][index] != NO_CLASS),
        )
        for index in examples_of(arrays["labels"])
    ]  # fmt: skip

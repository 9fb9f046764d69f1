"""Details of one defense on a page: settings, training, pictures, and all metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepsec_jax.answers import NO_CLASS
from deepsec_jax.defenses import DEFENSES, preset_card
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, WHITE_BOX
from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.runs.cells import MODEL_INPUTS, Cell
from deepsec_jax.studies.defenses.checks import kept_epoch
from deepsec_jax.studies.defenses.robustness import defense_key
from deepsec_jax.studies.defenses.threat_words import eps_in_words
from deepsec_jax.studies.settings import Card, card_of, described, said, settings_block
from deepsec_jax.tables import plots
from deepsec_jax.tables.page import Block, Detail, anchor_of, charts_block, every_figure
from deepsec_jax.tables.pictures import class_in_words, example, inputs_example, names_for
from deepsec_jax.tables.table import Row, Section
from deepsec_jax.training import RECIPES

SHOWN = 3
"""Number of images per defense in the overview of network inputs."""

_WORDS = {WHITE_BOX: "White-box", ADAPTIVE: "Adaptive"}
_INPUTS = (
    "The same test images for every defense, clean and after the adaptive attack: the image, the input of "
    "the defended network (one draw if it is random; the image itself if the defense changes only the "
    "weights), and the predictions of the undefended and the defended model."
)


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return the details of each defense."""
    rows = section.rows("utility")
    return [_detail(row, section, anchor_of(anchor, index)) for index, row in enumerate(rows)]


def _detail(row: Row, section: Section, anchor: str) -> Detail:
    under = [
        (table, found)
        for table in section.tables
        for found in table.rows
        if table.several and found.key == row.key
    ]
    cells = [cell for _, found in ((None, row), *under) for cell in found.cells.values()]
    finished = [cell for cell in cells if cell.error is None]
    config = next(cell.config for cell in section.cells if defense_key(cell) == row.key)
    training: Mapping[str, Any] = _first_said(finished, "training") or {}
    folder = _first_said(finished, "folder")
    channels = next((cell.arrays["x"].shape[3] for cell in finished if "x" in cell.arrays), None)
    card: Card = card_of(
        preset_card, row.name, section.fields["data"], section.fields["preset"], channels=channels
    )
    blocks = [
        settings_block(config["defense"]["settings"], card, row.record["changed"]),
        Block("recipe", _recipe(config, training), "Training"),
        *charts_block(_charts(training, anchor, finished)),
        *_pictures([found for _, found in under]),
        every_figure(row.figures[""].values()),
    ]
    for table, found in under:
        figures = (*found.figures[""].values(), *found.beside.values())
        blocks.append(every_figure(figures, compares=False, title=f"Under attack: {table.record['title']}"))
        blocks += [Block("findings", found.findings)] if found.findings else []
    return Detail(
        key=row.key, label=row.label, aside=f"folder {folder}" if folder else "",
        about=described(DEFENSES.get(row.name.partition("@")[0])), blocks=tuple(blocks),
        errors=tuple(
            f"{cell.config.get('knowledge', cell.kind).replace('_', '-')}: {cell.error}"
            for cell in cells if cell.error is not None
        ),
    )  # fmt: skip


def _first_said(cells: Sequence[Cell], name: str) -> Any:
    return next((cell.environment[name] for cell in cells if cell.environment.get(name)), None)


def _recipe(config: Mapping[str, Any], training: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the fields of the training's recipe, with those of the undefended model where they differ."""
    known = config["model"].get("recipe")
    named = RECIPES.get(str(known))  # runs of version 0.1 have only its name
    usual = known if isinstance(known, Mapping) else named.to_dict() if named else {}
    fields = [
        {
            "name": name.replace("_", " "), "value": said(value),
            "base": said(usual[name]) if name in usual and usual[name] != value else "",
        }
        for name, value in config["defense"]["recipe"].items()
        if name not in ("name", "source", "data")
    ]  # fmt: skip
    if "best_epoch" in training:
        fields.append({"name": "epoch kept", "value": str(training["best_epoch"] + 1), "base": ""})
    return fields


def _charts(training: Mapping[str, Any], anchor: str, cells: Sequence[Cell]) -> list[tuple[str, str]]:
    history = training.get("history", ())
    if not kept_epoch(training):
        return []
    classes = next(cell.arrays["probabilities"].shape[1] for cell in cells)
    kept = int(training["best_epoch"]) + 1
    accuracy = plots.accuracy_by_epoch(f"{anchor}-a", history, classes=classes, kept=kept)
    return [
        ("Validation accuracy by epoch", accuracy),
        ("Training loss by epoch", plots.loss_by_epoch(f"{anchor}-l", history)),
    ]


def _pictures(rows: Sequence[Row]) -> list[Block]:
    """Return the grid of clean and adversarial images of the strongest existing attack."""
    right = "not fooled" if any(row.beside for row in rows) else "still right"
    for knowledge in (ADAPTIVE, WHITE_BOX):
        for row in rows:
            cell = row.cells.get(knowledge)
            if cell is not None and cell.error is None:
                title = f"{_WORDS[knowledge]} adversarial images, ε = {eps_in_words(cell.config['eps'])}"
                shown = {"examples": _examples(cell), "success": "wrong", "failure": right}
                return [Block("pictures", shown, title)]
    return []


def _examples(cell: Cell) -> list[dict[str, Any]]:
    arrays = cell.arrays
    names = names_for(cell.environment["class_names"], arrays["probabilities"].shape[1])
    robust = np.minimum(arrays["clean"], arrays["right_or_rejected"])
    return [
        example(
            arrays["x"][index], arrays["x_adv"][index], label=names[arrays["labels"][index]],
            predicted=class_in_words(arrays["predicted"][index], names),
            confidence=float(arrays["confidence"][index]),
            success=bool(robust[index] < 0.5 and arrays["predicted"][index] != NO_CLASS),
        )
        for index in examples_of(arrays["labels"])
    ]  # fmt: skip


def model_inputs(section: Section, anchor: str) -> list[Block]:
    """Return each defense's network inputs for a few images, in the table's order."""
    cells: dict[str, Cell] = {}
    for each in section.cells:
        if each.kind == MODEL_INPUTS and each.error is None:
            cells.setdefault(defense_key(each), each)
    found = []
    for row in section.rows("utility"):
        if (cell := cells.get(row.key)) is not None:
            names = names_for(cell.environment["class_names"], cell.arrays["probabilities"].shape[1])
            found.append({
                "label": row.label, "eps": eps_in_words(cell.config["eps"]),
                "unchanged": np.array_equal(cell.arrays["seen"], cell.arrays["x"]),
                "examples": [inputs_example(cell.arrays, names, index) for index in range(SHOWN)],
            })  # fmt: skip
    return [Block("model_inputs", found, "Network inputs of each defense", _INPUTS)] if found else []

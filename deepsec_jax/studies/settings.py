"""Settings of an attack, a defense or a detector for a page: value, source, reason."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from deepsec_jax.catalog import UnknownName
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.model_words import defense_in_words
from deepsec_jax.tables.build import decided_by
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.page import Block

Card = Mapping[str, Mapping[str, Any]]
"""Field -> value, source, reason."""


def card_of(preset_card: Callable[..., Card], *names: str, channels: int | None) -> Card:
    """Return the sources of a preset's fields; none for a name without a preset."""
    try:
        return preset_card(*names, channels=channels)
    except UnknownName:
        return {}


def settings_block(used: Mapping[str, Any], card: Card, changed: Collection[str]) -> Block:
    """Return the settings with their sources; those that differ from the preset's are marked as set."""
    own = {"source": "set for this run", "reason": ""}
    usual = {"source": "default of the class", "reason": ""}
    rows = [
        {**(own if name in changed else card.get(name, usual)), "name": name, "value": said(value)}
        for name, value in used.items()
    ]
    return Block("fields", rows, "Hyperparameters")


def said(value: Any) -> str:
    """Return a setting as text: numbers with few digits, pairs as name = value, lists with commas."""
    if isinstance(value, list | tuple):
        if value and all(isinstance(part, list | tuple) and len(part) == 2 for part in value):
            return ", ".join(f"{name} = {said(part)}" for name, part in value)
        return ", ".join(map(said, value)) or "none"
    return digits(value) if isinstance(value, float) else str(value)


def defense_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return facts about the model's own defense for a page; empty without one."""
    model = config.get("model")
    card = model.get("defense") if isinstance(model, Mapping) else None
    return {"Defense": defense_in_words(card)} if isinstance(card, Mapping) else {}


def undefended_model(cell: Cell) -> str:
    """Return a text that is equal for cells of one undefended model and one test split, for grouping."""
    decided = {name: cell.config[name] for name in ("data", "model", "images")}
    return decided_by({**decided, "raw": cell.config["weights"]["raw"]})


def described(kind: Any) -> str:
    """Return title and reference of a class's card; empty without a card."""
    card = getattr(kind, "card", None)
    return ". ".join(filter(None, (card.title, card.reference))) if card is not None else ""

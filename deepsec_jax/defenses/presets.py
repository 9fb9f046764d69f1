"""Hyperparameters of defenses by name: DEEPSEC's, the original papers', and small ones for two cores."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

from deepsec_jax.attacks.presets import table_of
from deepsec_jax.catalog import lookup
from deepsec_jax.defenses.table import DEFENSES
from deepsec_jax.protocols import Defense

KINDS = ("paper", "strong", "small")


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("deepsec_jax.defenses").joinpath("presets.toml").read_text("utf-8")
    return tomllib.loads(text)


def preset_card(
    name: str, dataset: str, kind: str = "paper", *, channels: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return field -> {value, source, reason} of a defense, or {} without rows; see :func:`preset`.

    ``strong`` and ``small`` use the paper's value unless they have their own.  A row of the data set itself
    precedes that of the set whose values it borrows.
    """
    lookup(DEFENSES, name.partition("@")[0], "defense")
    lookup(dict.fromkeys(KINDS, True), kind, "kind of preset")
    column, base = table_of(dataset, channels), name.partition("@")[0]

    def rows(kind: str, row: str) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = _tables().get(kind, {}).get(row, {})
        return {**values.get(column, {}), **values.get(dataset, {})}

    if name != base and not rows(kind, name):
        known = [row for row in _tables().get(kind, {}) if row.partition("@")[0] == base]
        lookup(dict.fromkeys(known, True), name, f"{kind} preset on {column}")
    return {**rows("paper", base), **rows(kind, base), **rows(kind, name)}


def preset(name: str, dataset: str, kind: str = "paper", *, channels: int | None = None) -> Defense:
    """Return a defense with the hyperparameters of a table row, or its defaults without a row.

    Args:
        name: key of ``DEFENSES``, with a suffix for a variant (``pat@free``).
        dataset: data set name; what a set has no value of its own for is MNIST's if its images have one
            channel, and CIFAR-10's otherwise.
        kind: ``paper`` (section IX-B), ``strong`` (the original paper, where it differs) or ``small`` (can be
            trained on two cores; its results never carry the paper's title).
        channels: channels of an image, for a set without a known name.

    Raises:
        UnknownName: no such defense, kind or variant, with near matches.
    """
    defense = lookup(DEFENSES, name.partition("@")[0], "defense")
    values = {
        field: entry["value"] for field, entry in preset_card(name, dataset, kind, channels=channels).items()
    }
    for field, value in values.items():
        if field.endswith("changes"):
            values[field] = tuple(sorted(value.items()))
        elif isinstance(value, list):
            values[field] = tuple(value)
    built: Defense = defense(**values)
    return built

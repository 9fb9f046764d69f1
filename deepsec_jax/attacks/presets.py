"""Hyperparameters by name: the paper's tables, and those of a reliable evaluation."""

import tomllib
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any

from deepsec_jax.attacks.combinators import Restarts
from deepsec_jax.attacks.per_image import SCALED
from deepsec_jax.attacks.table import ATTACKS
from deepsec_jax.catalog import lookup
from deepsec_jax.protocols import Attack

_TAIL = ("llc", "rllc", "illc", "tmifgsm", "jsma", "blb", "cw2", "cw2@k20", "ead", "ead@l1")

ROWS: dict[str, tuple[str, ...]] = {
    "mnist": ("fgsm", "fgsm@0.5", "rfgsm", "bim", "pgd", "umifgsm", "uap", "deepfool", "optmargin", *_TAIL),
    "cifar10": ("fgsm", "fgsm@0.2", "rfgsm", "bim", "pgd", "umifgsm", "uap", "deepfool", "optmargin", *_TAIL),
}
"""The 19 rows of Tables XIV (MNIST) and III (CIFAR-10), in the tables' order."""

_ONE_CHANNEL = ("mnist", "digits", "fashion_mnist", "kmnist", "emnist")


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("deepsec_jax.attacks").joinpath("presets.toml").read_text()
    return tomllib.loads(text)


def table_of(dataset: str, channels: int | None = None) -> str:
    """Return the data set whose values are used: MNIST with one channel, CIFAR-10 otherwise."""
    if dataset in ROWS:
        return dataset
    if channels is None:
        channels = 1 if dataset in _ONE_CHANNEL else 3
    return "mnist" if channels == 1 else "cifar10"


def preset_card(
    name: str, dataset: str, kind: str = "paper", *, channels: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return field -> {value, source, reason} of a row, or {} without a row; see :func:`preset`."""
    rows = lookup(_tables(), kind, "kind of preset")
    column = table_of(dataset, channels)
    known = {row: values[column] for row, values in rows.items() if column in values}
    base = name.partition("@")[0]
    if name in ATTACKS and name not in known:
        return {}  # the user's own attack, without rows: its defaults
    values = lookup(known, name, f"{kind} preset on {column}")
    return {**known.get(base, {}), **values}


def preset(
    name: str, dataset: str, kind: str = "paper", *, channels: int | None = None, **changes: Any
) -> Attack:
    """Return an attack with the hyperparameters of a table row, or its defaults without a row.

        preset("pgd", "cifar10", "strong", eps=8 / 255)

    Args:
        name: key of ``ATTACKS``, with a suffix for a variant (``fgsm@0.5``).
        dataset: data set name; sets without a table of their own take MNIST's values if their images
            have one channel and CIFAR-10's otherwise.
        kind: ``paper`` (Table XIII with the code's errors fixed) or ``strong`` (a reliable evaluation).
        channels: channels of an image, for a set without a known name; default 1 for MNIST-like sets, else 3.
        changes: fields that differ from the row, also ``restarts``.  With another eps, step_size and alpha
            keep their ratio to it unless given.

    Raises:
        UnknownName: no such attack, kind, variant or field, with near matches.
    """
    attack = lookup(ATTACKS, name.partition("@")[0], "attack")
    card = preset_card(name, dataset, kind, channels=channels)
    values = {field: entry["value"] for field, entry in card.items()}
    known = {field.name: field.default for field in fields(attack)}
    for field in changes:
        lookup(known | {"restarts": None}, field, f"field of {attack.__name__}")
    values |= _in_proportion(known | values, changes) | changes
    restarts = values.pop("restarts", None)
    built: Attack = attack(**values)
    return built if restarts is None else Restarts(built, n=restarts)


def _in_proportion(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the step lengths for another eps: those of the row times new eps / old eps."""
    if "eps" not in changes or not values.get("eps"):
        return {}
    ratio = changes["eps"] / values["eps"]
    return {field: values[field] * ratio for field in SCALED if field in values}

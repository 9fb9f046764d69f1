"""From cells to figures and sections: grouping, missing values, comparison with the paper, facts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from deepsec_jax.metrics import Column, Summary
from deepsec_jax.runs.cells import Cell
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import NOTHING, Figure

T = TypeVar("T")


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Return key -> items, in the order of first occurrence."""
    found: dict[Any, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def decided_by(values: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal values, for grouping."""
    return json.dumps(values, sort_keys=True, default=str)


def figure(
    column: Column,
    summary: Summary | None,
    absent: str,
    printed: Printed,
    reasons: Iterable[Reason] = (),
    cell: Cell | None = None,
) -> Figure:
    """Return one figure; it has reasons only if there are two numbers to compare.

    Args:
        column: of the figure.
        summary: mean, n and interval; None if nothing was measured.
        absent: reason for a missing value.
        printed: the paper's number.
        reasons: why ours may differ, the most specific first.
        cell: its source.
    """
    summary = summary or NOTHING
    compared = summary.n > 0 and not printed.absent
    return Figure(
        column, summary, "" if summary.n else absent, printed, tuple(reasons) if compared else (), cell
    )


def name_of(value: Any) -> str:
    """Return the name of a data set or model in a config: a plain name, or its field ``name``."""
    if isinstance(value, Mapping):
        return str(value.get("name") or value.get("recipe") or value.get("path") or "unnamed")
    return str(value)


def missing(
    paper: Published, names: Iterable[str], present: Iterable[str], known: Iterable[str]
) -> dict[str, str]:
    """Return the paper's names of missing rows -> reason.

    Args:
        paper: has the labels.
        names: of the paper's rows.
        present: names of our rows.
        known: names that this package implements.
    """
    here, ours = set(present), set(known)
    return {
        paper.label(name): "not in this run" if name.partition("@")[0] in ours else "not in deepsec_jax yet"
        for name in names
        if name not in here
    }


def facts(
    cells: Sequence[Cell], about: Mapping[str, str], *, times: bool, model: str = "Model"
) -> dict[str, str]:
    """Return the facts under a heading, label -> text: model and data, then ``about``, then the machine.

    Args:
        cells: of a section.
        about: facts about the measurement; empty texts are left out.
        times: whether to keep values that depend on the clock and the machine's load.
        model: label of the model; empty if it is in ``about``.
    """
    config = cells[0].config
    found = {"Data": name_of(config.get("data"))} | ({model: name_of(config.get("model"))} if model else {})
    said = config["model"] if isinstance(config.get("model"), Mapping) else {}
    found |= {_words(key): _said(key, value) for key, value in said.items() if _plain(key, value)}
    if "recipe" in said:
        recipe = said["recipe"]
        size = recipe.get("image_size") if isinstance(recipe, Mapping) else None
        resized = f", images resized to {size[0]} x {size[1]} pixels" if size else ""
        found["Recipe"] = name_of(recipe) + resized
    found |= about
    for label, name in (("Device", "device"), ("Versions", "versions"), ("Batch size", "batch_size")):
        found[label] = _all_said(cells, name) if times or name != "batch_size" else ""
    return {label: text for label, text in found.items() if text}


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _said(key: str, value: Any) -> str:
    if key.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    return digits(value) if isinstance(value, float) else str(value)


def _plain(key: str, value: Any) -> bool:
    shown = key not in ("name", "trained_on") and not isinstance(value, bool)
    return shown and isinstance(value, str | int | float)


def _all_said(cells: Sequence[Cell], name: str) -> str:
    """Return the distinct values of one entry of all environments."""
    answers: dict[str, None] = {}
    for cell in cells:
        value = cell.environment.get(name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        if value is not None:
            answers[str(value)] = None
    return "; ".join(sorted(answers))

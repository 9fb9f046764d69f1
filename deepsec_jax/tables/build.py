"""From cells to figures and sections: grouping, what is n/a, what is compared with the paper, facts."""

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
    """Return key -> items, in the order in which each key first comes up."""
    found: dict[Any, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def decided_by(values: Mapping[str, Any]) -> str:
    """Return one text for equal values, to group by."""
    return json.dumps(values, sort_keys=True, default=str)


def figure(
    column: Column,
    summary: Summary | None,
    absent: str,
    printed: Printed,
    reasons: Iterable[Reason] = (),
    cell: Cell | None = None,
) -> Figure:
    """Return one figure; reasons stand where there are two numbers to compare, and nowhere else.

    Args:
        column: what it is.
        summary: mean, n and interval; None where nothing was measured.
        absent: why there is none, if there is none.
        printed: what the paper prints.
        reasons: why ours may differ, special ones first.
        cell: what it is read from.
    """
    summary = summary or NOTHING
    compared = summary.n > 0 and not printed.absent
    return Figure(
        column, summary, "" if summary.n else absent, printed, tuple(reasons) if compared else (), cell
    )


def name_of(value: Any) -> str:
    """Return the name of a data set or model in a config: a plain name, or the field of that name."""
    if isinstance(value, Mapping):
        return str(value.get("name") or value.get("recipe") or value.get("path") or "unnamed")
    return str(value)


def missing(
    paper: Published, names: Iterable[str], present: Iterable[str], known: Iterable[str]
) -> dict[str, str]:
    """Return the paper's names of what is not here -> why.

    Args:
        paper: which has labels.
        names: what the paper has.
        present: what is here.
        known: what this package has.
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
    """Return what stands under a heading, label -> text: model and data, then ``about``, then the machine.

    Args:
        cells: of a section.
        about: what was measured and how; empty texts are left out.
        times: whether to keep what depends on the clock and the machine's load.
        model: label of the model; empty leaves it to ``about``.
    """
    config = cells[0].config
    found = {"Data": name_of(config.get("data"))} | ({model: name_of(config.get("model"))} if model else {})
    said = config["model"] if isinstance(config.get("model"), Mapping) else {}
    found |= {_words(key): _said(key, value) for key, value in said.items() if _plain(key, value)}
    if "recipe" in said:
        found["Recipe"] = name_of(said["recipe"])
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
    """Return what all environments say of one thing, each answer once."""
    answers: dict[str, None] = {}
    for cell in cells:
        value = cell.environment.get(name)
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        if value is not None:
            answers[str(value)] = None
    return "; ".join(sorted(answers))

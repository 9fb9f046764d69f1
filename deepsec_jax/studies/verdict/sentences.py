"""The answer of a verdict in plain sentences, and the columns that they quote."""

from collections.abc import Sequence

import numpy as np

from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.indicated import means
from deepsec_jax.studies.verdict.attacks import MORE, short_name
from deepsec_jax.studies.verdict.gates import gates
from deepsec_jax.studies.verdict.jobs import ACCURACY, CLOSEST, INDICATORS
from deepsec_jax.tables.numbers import digits, interval, number

SYMBOLS = {"linf": "L∞", "l2": "L2"}

NOT_TRIED = (
    "other norms than L∞ and L2; rotations, patches and other changes of the image; attacks on the training "
    "data; an attacker who knows more of this model than its gradients"
)


def _share(name: str, title: str, formula: str) -> Column:
    values = lambda cell: cell.arrays[name]  # noqa: E731
    return Column(name, "robust", title, formula, "ours", "share", "higher", "all", values, rate=True)


CLEAN = _share("clean", "Clean", "share of the n images that are classified correctly")
ROBUST = _share("robust", "Robust", "share of the n images that stay correct under every attack")
DISTANCE = Column(
    "distance", "ald", "Distance", "size of the smallest change that fools the model", "ours", "1", "higher",
    "successful", lambda cell: cell.arrays["distance"],
)  # fmt: skip


def verdict(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the answer in plain sentences, topic -> text."""
    found: dict[str, str] = {}
    done = [cell for cell in cells if cell.error is None]
    for cell in done:
        if cell.config["question"] == ACCURACY:
            found |= _question(cell) | _accuracy(cell)
    closest = [cell for cell in done if cell.config["question"] == CLOSEST]
    for cell in closest:
        if text := _median(cell):
            found[f"Smallest change, {SYMBOLS[cell.config['norm']]}"] = (
                f"Half of the correctly classified images are fooled by {text}, or by less."
            )
    for cell in done:
        if cell.config["question"] == ACCURACY and (text := _curve(cell, closest)):
            found["Curve"] = text
        elif cell.config["question"] == INDICATORS:
            found["Signs of weak attacks"] = _signs(cell)
    found["Not tried"] = f"{NOT_TRIED[0].upper()}{NOT_TRIED[1:]}."
    closed = [gate for gate in gates(cells) if gate.closed]
    if closed and "Robust accuracy" in found:
        found["Robust accuracy"] += " This is no robust accuracy: a gate is closed."
    found["Gates"] = (
        "All gates hold: nothing here says that the attacks were too weak." if not closed
        else f"Not robust accuracy. {' '.join(sentence(str(gate)) for gate in closed)}"
    )  # fmt: skip
    return found


def _question(cell: Cell) -> dict[str, str]:
    """Return what the robust accuracy asks, in words of pixels."""
    eps = radius(float(cell.config["eps"]))
    change = (
        f"every pixel value may change by at most {eps} of its range" if cell.config["norm"] == "linf"
        else f"the change may have a Euclidean length of at most {eps}, pixel values in [0, 1]"
    )  # fmt: skip
    return {"Question": f"How many images stay correctly classified if {change}?"}


def _curve(cell: Cell, closest: Sequence[Cell]) -> str:
    """Return what the search for the smallest change leaves at radii around eps; empty without one."""
    eps = float(cell.config["eps"])
    for other in closest:
        if other.config["norm"] != cell.config["norm"]:
            continue
        right, fooled = other.arrays["clean"] >= 0.5, other.arrays["success"] >= 0.5
        least = np.where(right, np.where(fooled, other.arrays["distance"], np.inf), 0.0)
        said = [
            f"{100 * float(np.mean(least > part * eps * (1 + 1e-6))):.0f} % at {radius(part * eps)}"
            for part in (0.25, 0.5, 1.0, 2.0)
        ]
        return f"FMN alone leaves {', '.join(said)} ({SYMBOLS[cell.config['norm']]})."
    return ""


def _signs(cell: Cell) -> str:
    """Return the indicators of attack failure, in percent."""
    said = ", ".join(
        f"{name.replace('_', ' ')} {100 * value:.0f} %" for name, value in means(cell.arrays).items()
    )
    return f"{sentence(said)} (n = {len(cell.arrays['rows'])}; 0 % is no sign)."


def sentence(text: str) -> str:
    """Return a text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def _accuracy(cell: Cell) -> dict[str, str]:
    clean, robust = (summarise(column, cell.columns[column.name], np.ones(int(cell.config["n"])))
                     for column in (CLEAN, ROBUST))  # fmt: skip
    norm, eps = SYMBOLS[cell.config["norm"]], radius(float(cell.config["eps"]))
    counts = _first_to_fool(cell)
    tried = ", ".join(f"{name} {count}" for name, count in counts.items())
    return {
        "Clean accuracy": f"{_said(CLEAN, clean)} of the images are classified correctly.",
        "Robust accuracy": f"{_said(ROBUST, robust)} stay correct under every attack with {norm} ≤ {eps}.",
        "Tried": f"AutoAttack; images that each attack was the first to fool: {tried}.",
    }


def _first_to_fool(cell: Cell) -> dict[str, int]:
    """Return how many images each attack was the first to fool; several runs of one attack are one."""
    known, counts = cell.environment, dict[str, int]()
    for text, role, count in zip(known["attacks"], known["roles"], known["felled"], strict=True):
        name = short_name(text) + (" with twice the steps" if role == MORE else "")
        counts[name] = counts.get(name, 0) + int(count)
    return counts


def _said(column: Column, summary: Summary) -> str:
    return f"{number(column, summary.mean)} (95 % interval {interval(column, summary)}, n = {summary.n})"


def _median(cell: Cell) -> str:
    right = cell.arrays["clean"] >= 0.5
    distance = np.where(cell.arrays["success"] >= 0.5, cell.arrays["distance"], np.inf)[right]
    if not len(distance) or not np.isfinite(np.median(distance)):
        return ""
    return f"{digits(float(np.median(distance)), 3)} in {SYMBOLS[cell.config['norm']]}"


def radius(eps: float) -> str:
    """Return a radius as text, in levels of 255 where it is a small whole number of them."""
    levels = eps * 255
    return f"{levels:.0f}/255" if eps < 0.2 and abs(levels - round(levels)) < 1e-4 else digits(eps)

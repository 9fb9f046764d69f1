"""Gates of a verdict: what must hold before its figure may be called robust accuracy."""

from collections.abc import Sequence

from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.indicated import UNAVAILABLE, indicated
from deepsec_jax.studies.verdict.attacks import MORE, SEARCH
from deepsec_jax.studies.verdict.jobs import ACCURACY, CLOSEST, INDICATORS
from deepsec_jax.tables.table import Finding

FEW = 100
"""Below this number of images a share has an interval of more than 20 points."""

BLIND = "no gradient"
BLIND_REMEDY = "decisions alone: deepsec attack MODEL --attacks rays, or a surrogate: models.straight_through"
SEARCH_REMEDY = "another surrogate, or more queries: deepsec attack MODEL --attacks square rays"


def gates(cells: Sequence[Cell]) -> list[Gate]:
    """Return the conditions that are not met, so that the figure may not be called robust accuracy."""
    found = []
    for cell in cells:
        question = cell.config["question"]
        if cell.error is not None:
            text = f"{cell.config['row']} failed: {cell.error}"
            found.append(Gate(Finding("a cell failed", text), True, "the same command again"))
        elif question == ACCURACY:
            found += _too_weak(cell)
            for finding in cell.environment.get("findings", ()):
                found.append(Gate(Finding("outputs of the model", str(finding).rstrip(".")), True))
            found += _order(cell, cells)
        elif question == INDICATORS:
            found += indicated(cell.arrays, surrogate=cell.environment["surrogate"])
    blind = any(gate.finding.label == BLIND for gate in found)
    return [gate for gate in found if not (blind and gate.finding.label == UNAVAILABLE)]


def _too_weak(cell: Cell) -> list[Gate]:
    """Return what the attacks with special roles, the gradient and the number of images say."""
    n, found = int(cell.config["n"]), []
    felled = dict.fromkeys((SEARCH, MORE), 0)
    for role, count in zip(cell.environment["roles"], cell.environment["felled"], strict=True):
        if role in felled:
            felled[role] += int(count)
    if not cell.environment["has_gradient"]:
        text = "the model has no gradient, so attacks with gradients found nothing"
        found.append(Gate(Finding(BLIND, text), True, BLIND_REMEDY))
    if felled[SEARCH] > max(1, 0.002 * n):
        text = f"{felled[SEARCH]} of n = {n} images fell to a search without gradients only"
        found.append(Gate(Finding("black box ahead of white box", text), True, SEARCH_REMEDY))
    if felled[MORE] > max(1, 0.01 * n):
        text = f"{felled[MORE]} of n = {n} images fell only when the steps were doubled"
        found.append(Gate(Finding("more steps still gain", text), True, "--version standard"))
    if n < FEW:
        text = f"n = {n} is too few for a claim"
        found.append(Gate(Finding("few images", text), True, f"--n {FEW} or more"))
    return found


def _order(cell: Cell, cells: Sequence[Cell]) -> list[Gate]:
    """Return whether the search for the smallest change fools images that AutoAttack does not."""
    for other in cells:
        same = other.error is None and other.config["question"] == CLOSEST
        if same and other.config["norm"] == cell.config["norm"]:
            near = other.arrays["distance"] <= float(cell.config["eps"]) * (1 + 1e-5)
            missed = (other.arrays["success"] >= 0.5) & near & (cell.arrays["robust"] >= 0.5)
            if missed.sum() > max(1, 0.002 * len(missed)):
                text = f"FMN fools {int(missed.sum())} images within the radius that AutoAttack does not"
                return [Gate(Finding("a smaller change is known", text), True, "--version standard")]
    return []

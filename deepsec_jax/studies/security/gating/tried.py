"""How many images the strongest attacks have tried: cells of one model may have different numbers."""

from collections.abc import Sequence

from deepsec_jax.evaluation.defense_cells import REPLAYED
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.invariants import card_of
from deepsec_jax.studies.security.worst import OUTSIDE, Threat

EVERYWHERE = "apgd"
"""The attack that is run at every radius of the worst case."""


def tried(cells: Sequence[Cell], threat: Threat) -> int:
    """Return the number of first images whose worst case is known; all if no attack can tell.

    A replay of a thousand images does not say what the model's own attack does to them.  So these are the
    images of the attack that is run at this radius on the model itself, with every kind of knowledge.
    Without it they are the images that every attack within the radius has tried.

    Args:
        cells: of one model.
        threat: the radius.
    """
    finished = [cell for cell in cells if cell.error is None]
    made = [cell for cell in on_itself(finished, threat) if not is_search(cell)]
    row = f"{EVERYWHERE}@{threat.norm}:{threat.eps:.4g}"
    own = [cell for cell in made if cell.config["attack"]["name"] == row]
    numbers = [len(cell.arrays["clean"]) for cell in own or made or finished]
    return max(numbers, default=0) if not made else min(numbers)


def on_itself(cells: Sequence[Cell], threat: Threat) -> list[Cell]:
    """Return the finished cells that attack the model itself, or through its surrogate, within a radius.

    At least half of the changed images must lie inside, or the attack searches for the smallest change: a few
    images that happen to lie inside are no attack at this radius.
    """
    found = []
    for cell in cells:
        changed = cell.arrays["linf"] > 0
        near = cell.arrays[threat.norm] <= threat.eps + OUTSIDE
        enough = 0.0 if is_search(cell) else 0.5
        if cell.config.get("knowledge") != REPLAYED and (near & changed).sum() > enough * changed.sum():
            found.append(cell)
    return found


def is_search(cell: Cell) -> bool:
    """Tell whether a cell's attack searches for the smallest change, and so has no radius."""
    card = card_of(str(cell.config["attack"]["name"]))
    return card is not None and card.kind == "minimum-norm"

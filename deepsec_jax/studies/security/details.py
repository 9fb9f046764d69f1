"""What the page shows of each defense in the security evaluation: curves, who took the images, gates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deepsec_jax.defenses import DEFENSES
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.worst import SYMBOLS, robust
from deepsec_jax.studies.settings import described
from deepsec_jax.tables import plots
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.plots import Curve
from deepsec_jax.tables.table import Section

_CURVES = (
    "For each distance r, the share of the images on which some attack succeeded with a change of at most "
    "r: the envelope of all attacks with any knowledge. Its complement is the robust accuracy at r."
)


def overview(section: Section, anchor: str) -> list[Block]:
    """Return the curves of all defenses, one chart per norm."""
    charts = []
    for norm in ("linf", "l2"):
        curves = []
        for model in section.subjects:
            found = _envelope([cell for cell in model.cells.values() if cell.error is None], norm)
            if found is not None:
                curves.append(Curve(model.label, found[0], found[1]))
        if curves:
            svg = plots.success_distance(f"{anchor}-{norm}", SYMBOLS[norm], curves)
            charts.append({"title": f"{SYMBOLS[norm]}, all attacks", "svg": Markup(svg)})
    return [Block("charts", {"charts": charts, "large": True}, "Worst case against distance", _CURVES)] if (
        charts
    ) else []  # fmt: skip


def _envelope(cells: Sequence[Cell], norm: str) -> tuple[np.ndarray, int] | None:
    """Return the smallest distance of a success of each image that has one, and the number of images."""
    if not cells:
        return None
    n = len(cells[0].arrays["labels"])
    least = np.full(n, np.inf)
    for cell in cells:
        fooled = robust(cell) < 0.5
        least = np.where(fooled, np.minimum(least, cell.arrays[norm]), least)
    clean = np.asarray(cells[0].arrays["clean"]) < 0.5
    least = np.where(clean, 0.0, least)
    return least[np.isfinite(least)], n


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return the details of each defense."""
    del times, anchor
    worst = next(table for table in section.tables if table.kind == "worst")
    rows = {row.key: row for row in worst.rows}
    found = []
    for model in section.subjects:
        row = rows[f"worst {model.key}"]
        facts: dict[str, Any] = {}
        for radius, taken in row.record["taken_by"].items():
            most = list(taken.items())[:6]
            facts[radius] = ", ".join(f"{name} {count}" for name, count in most) or "none"
        blocks = [Block("facts", facts, "Images taken, by attack")]
        if model.gates:
            said = {gate.finding.label: gate.finding.text for gate in model.gates}
            blocks.append(Block("facts", said, "Gates"))
        failed = ((place, cell) for place, cell in model.cells.items() if cell.error)
        errors = tuple(f"{' '.join(place)}: {cell.error}" for place, cell in failed)
        found.append(
            Detail(
                key=model.key, label=model.label, aside=model.name if model.label != model.name else "",
                about=described(DEFENSES.get(model.name.partition("@")[0])), errors=errors,
                blocks=tuple(blocks),
            )
        )  # fmt: skip
    return found

"""What the page shows of each defense in the security evaluation: curves, who took the images, gates."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from deepsec_jax.defenses import DEFENSES
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.indicated import means
from deepsec_jax.studies.security.gating.noise import DRAWS
from deepsec_jax.studies.security.gating.tried import tried
from deepsec_jax.studies.security.model import attack_label
from deepsec_jax.studies.security.worst import SYMBOLS, Threat, robust
from deepsec_jax.studies.settings import described
from deepsec_jax.tables import plots
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.plots import Curve
from deepsec_jax.tables.table import Finding, Section

_CURVES = (
    "For each distance r, the share of the images on which some attack succeeded with a change of at most "
    "r: the envelope of all attacks with any knowledge. Its complement is the robust accuracy at r."
)


def _findings(gates: Sequence[Gate]) -> list[Finding]:
    """Return the gates as paragraphs, those that strike figures through first."""
    ordered = sorted(gates, key=lambda gate: not gate.closed)
    return [
        Finding(
            gate.finding.label if gate.closed else f"{gate.finding.label}, a note",
            gate.finding.text + (f". Next: {gate.remedy}" if gate.remedy else ""),
        )
        for gate in ordered
    ]


def _by_attack(taken: Mapping[str, int]) -> str:
    """Return which attacks took how many images, the first six."""
    said = []
    for place, count in list(taken.items())[:6]:
        knowledge, _, name = place.rpartition(" ")
        words = knowledge.replace("_", "-")
        said.append(f"{attack_label(name)}{f', {words}' if words else ''}: {count}")
    return "; ".join(said) or "none"


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
    """Return the smallest distance of a success of each image that has one, and the number of images.

    Only images that every attack with a radius has tried count, so that none seems robust for want of trying.
    """
    if not cells:
        return None
    longest = max(cells, key=lambda cell: len(cell.arrays["labels"]))
    n = tried(cells, Threat(norm, math.inf))
    least = np.full(n, np.inf)
    for cell in cells:
        fooled = np.flatnonzero(robust(cell)[:n] < 0.5)
        least[fooled] = np.minimum(least[fooled], cell.arrays[norm][fooled])
    least[np.asarray(longest.arrays["clean"])[:n] < 0.5] = 0.0
    return least[np.isfinite(least)], n


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return the details of each defense."""
    del times, anchor
    worst = next(table for table in section.tables if table.kind == "worst")
    rows = {row.key: row for row in worst.rows}
    found = []
    for model in section.subjects:
        row = rows[f"worst {model.key}"]
        facts = {radius: _by_attack(taken) for radius, taken in row.record["taken_by"].items()}
        blocks = [Block("lines", facts, "Images taken, by attack")]
        if model.gates:
            blocks.append(Block("findings", _findings(model.gates), "Gates"))
        if model.signs is not None:
            shares = {
                name.replace("_", " "): f"{100 * value:.0f} %"
                for name, value in means(model.signs.arrays).items()
            }
            n = len(model.signs.arrays["rows"])
            blocks.append(Block("facts", shares, f"Indicators of attack failure, n = {n}"))
        if model.noise is not None and len(model.noise.arrays["rows"]):
            arrays, eps = model.noise.arrays, float(model.noise.config["attack"]["eps"])
            shares = {
                f"fooled by the worst of {DRAWS} random noises": f"{100 * arrays['noise'].mean():.0f} %",
                "fooled by one step of FGSM": f"{100 * arrays['one_step'].mean():.0f} %",
            }
            radius = Threat("linf", eps).label
            blocks.append(Block("facts", shares, f"Random noise, {radius}, n = {len(arrays['rows'])}"))
        failed = ((place, cell) for place, cell in model.cells.items() if cell.error)
        errors = tuple(f"{' '.join(place)}: {cell.error}" for place, cell in failed)
        found.append(
            Detail(
                key=model.key, label=model.label,
                aside="" if model.label.lower() == model.name.lower() else model.name,
                about=described(DEFENSES.get(model.name.partition("@")[0])), errors=errors,
                blocks=tuple(blocks),
            )
        )  # fmt: skip
    return found

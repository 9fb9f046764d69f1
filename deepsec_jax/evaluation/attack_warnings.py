"""What a reader must know before trusting a table of attacks, found in the figures themselves."""

import math
from collections.abc import Mapping

import numpy as np

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.evaluation.attack_table import Distance, Row
from deepsec_jax.evaluation.gaps import findings_of
from deepsec_jax.evaluation.paper_numbers import absences
from deepsec_jax.evaluation.paper_table import Section, TableRow, name_of
from deepsec_jax.evaluation.report import warnings as table_warnings
from deepsec_jax.evaluation.silence import silent_images
from deepsec_jax.evaluation.subject import not_adaptive


def warnings(section: Section) -> list[str]:
    """Return one sentence per finding: failed cells, missing figures, and figures that cannot be right."""
    failed = [
        f"{row.name}: the cell failed, so the table lacks its figures: {row.cell.error}"
        for row in section.rows
        if row.cell.error is not None
    ]
    finished = [row for row in section.rows if row.cell.error is None]
    unbounded = [text for row in finished if (text := _unbounded(row))]
    model = section.rows[0].cell.config.get("model") if section.rows else None
    aware = not_adaptive(model) if isinstance(model, Mapping) else []
    findings = findings_of((row.cell for row in finished), lambda cell: name_of(cell.config["model"]))
    found = table_warnings([as_row(row) for row in finished])
    return [*failed, *aware, *findings, *found, *unbounded, *absences(section)]


def as_row(row: TableRow) -> Row:
    """Return the figures of a finished cell as a row of a plain attack table."""
    arrays, environment = row.cell.arrays, row.cell.environment
    hits = arrays["success"] >= 0.5
    delta = distances(row)
    rounded = row.cell.columns.get("mr_8bit")
    gradients = environment.get("gradients")
    return Row(
        attack=row.name,
        goal="targeted" if row.goal == "TAs" else "untargeted",
        hyperparameters=dict(row.cell.config["attack"].get("hyperparameters", {})),
        n=row.n,
        success=float(arrays["success"].mean()) if row.n else math.nan,
        success_8bit=math.nan if rounded is None or not row.n else float(np.mean(rounded)),
        successes=row.hits,
        l2=_distance(delta["L2"][hits]),
        linf=_distance(delta["L∞"][hits]),
        l0=_distance(delta["L0"][hits]),
        seconds=float(environment.get("seconds") or math.nan),
        compile_seconds=float(environment.get("compile_seconds") or 0.0),
        gradients=None if gradients is None else float(gradients),
        forwards=environment.get("forwards"),
        fit_seconds=float(environment.get("fit_seconds") or 0.0),
        no_answer=silent_images(arrays),
    )


def distances(row: TableRow) -> dict[str, np.ndarray]:
    """Return L2, L∞ and the share of changed entries (L0) of each image, float64 [N]."""
    arrays = row.cell.arrays
    delta = arrays["x_adv"].astype(np.float64) - arrays["x"].astype(np.float64)
    delta = np.abs(delta).reshape(len(delta), int(np.prod(delta.shape[1:])))
    return {
        "L2": np.sqrt((delta**2).sum(axis=1)),
        "L∞": delta.max(axis=1, initial=0.0),
        "L0": (delta > 0).mean(axis=1) if delta.size else np.zeros(len(delta)),
    }


def _distance(values: np.ndarray) -> Distance:
    if not len(values):
        return Distance(math.nan, math.nan)
    return Distance(float(np.median(values)), float(values.mean()))


def _unbounded(row: TableRow) -> str:
    card = getattr(ATTACKS.get(row.name.partition("@")[0]), "card", None)
    if card is None or card.kind != "minimum-norm" or card.budget is not None or row.hits == row.n:
        return ""
    return (
        f"{row.name}: success {100 * row.hits / row.n:.1f} % of n = {row.n}, though nothing bounds its "
        "distance: an unbounded attack that fails is broken or stopped too early."
    )

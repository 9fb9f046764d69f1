"""What the page shows of one detector: threshold, settings, ROC curves, how its scores lie; and the sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from deepsec_jax.catalog import UnknownName
from deepsec_jax.defenses import DEFENSES, preset_card
from deepsec_jax.evaluation.attack_details import compared
from deepsec_jax.evaluation.defense_details import said
from deepsec_jax.evaluation.detection_entries import DetectorHead, rate_in_words
from deepsec_jax.evaluation.detection_figures import Line, Scores, by_radius, ridges, roc_curves
from deepsec_jax.evaluation.detection_sweep import CARRIED
from deepsec_jax.evaluation.detection_table import DetectionRow, DetectionSection
from deepsec_jax.evaluation.detection_warnings import limits_of, rate_warning
from deepsec_jax.metrics import DETECTION_METRICS, summarise_detection

_FURTHER = ("fpr", "fpr_correct")  # stand in the facts of a detector, since no attack changes them


def detector_details(
    head: DetectorHead, section: DetectionSection, anchor: str, *, times: bool = True
) -> dict[str, Any]:
    """Return what the template shows of one detector.

    Args:
        head: the detector.
        section: where it stands.
        anchor: id of its place in the page.
        times: whether to show what depends on the clock.
    """
    kind = DEFENSES.get(head.name.partition("@")[0])
    names = [name for name in DETECTION_METRICS if name not in _FURTHER]
    return {
        "anchor": anchor,
        "head": head,
        "title": kind.card.title if kind else "",
        "reference": kind.card.reference if kind else "",
        "errors": [
            f"{cell.config.get('attack', {}).get('name', 'clean images')}: {cell.error}"
            for cell in (head.clean, *(row.cells.get(head.key) for row in section.rows))
            if cell is not None and cell.error is not None
        ],
        "facts": _facts(head, times),
        "fields": _fields(head, section.dataset),
        "charts": _charts(head, section.rows, anchor),
        "names": [DETECTION_METRICS[name] for name in names],
        "rows": [
            {"label": row.label, "n": row.n, "hits": row.hits,
             "entries": [figures_of(row.entries[head.key][name]) for name in names]}
            for row in section.rows
        ],
    }  # fmt: skip


def figures_of(entry: Any) -> dict[str, Any]:
    """Return one figure for a table, in which its n stands elsewhere."""
    figures = compared(entry)
    return figures | {"interval": figures["interval"].removeprefix("n/a, "), "other_n": None}


def _facts(head: DetectorHead, times: bool) -> dict[str, str]:
    facts = {"Threshold": f"{head.threshold:.5g}, the same for every attack"}
    limits = limits_of(head)
    if head.clean is None or limits is None:
        return facts
    known = head.clean.environment
    nothing = np.zeros(0, np.float32)
    record = head.record(nothing, nothing)
    found = {name: summarise_detection(DETECTION_METRICS[name], record) for name in _FURTHER}
    low, high = (100 * end for end in limits)
    outside = ", which it is not in" if rate_warning(head) else ""
    share, images = 100 * known["fpr"], known["validation"]
    facts["Set for"] = f"FPR {share:g} % on {images} clean images held out of training"
    facts["FPR, all clean test images"] = rate_in_words("fpr", found["fpr"])
    facts["99 % interval of it, both samples"] = f"{low:.1f}\N{EN DASH}{high:.1f} %{outside}"
    facts["FPR, classified correctly"] = rate_in_words("fpr_correct", found["fpr_correct"])
    if times and known.get("seconds") and len(head.clean_scores):
        each = known["seconds"] / len(head.clean_scores)
        text = f"{1000 * each:.3g} ms per image"
        if known.get("forward_seconds"):
            text += f", {known['seconds'] / known['forward_seconds']:.2g} times classifying it"
        facts["Scoring"] = text
    if known.get("folder"):
        facts["Folder"] = str(known["folder"])
    plain = {
        key: value for key, value in known.get("training", {}).items() if isinstance(value, int | float | str)
    }
    return facts | {key.replace("_", " ").capitalize(): said(value) for key, value in plain.items()}


def _fields(head: DetectorHead, dataset: str) -> list[dict[str, str]]:
    """Return the settings with their sources; those that are not the preset's are said to be set."""
    channels = None if head.clean is None else head.clean.environment.get("channels")
    card: Mapping[str, Any]
    try:
        card = preset_card(head.name, dataset, str(head.about["preset"]), channels=channels)
    except UnknownName:
        card = {}
    changed = {"source": "set for this run", "reason": ""}
    usual = {"source": "default of the class", "reason": ""}
    return [
        {**(changed if name in head.changed else card.get(name, usual)), "name": name, "value": said(value)}
        for name, value in head.about["settings"].items()
    ]


def _charts(head: DetectorHead, rows: Sequence[DetectionRow], anchor: str) -> list[dict[str, Any]]:
    clean = head.clean_scores
    if not len(clean):
        return []
    flagged = float(summarise_detection(
        DETECTION_METRICS["fpr"], head.record(np.zeros(0), np.zeros(0))
    ).mean)  # fmt: skip
    charts = []
    for goal, words in (("UAs", "untargeted"), ("TAs", "targeted")):
        attacked = [found for row in rows if row.goal == goal and (found := _hits(row, head)) is not None]
        if attacked:
            svg = roc_curves(f"{anchor}-roc-{goal}", attacked, clean, flagged)
            charts.append({"title": f"ROC, {words} attacks", "svg": Markup(svg)})
    groups = [found for row in rows if (found := _hits(row, head)) is not None]
    svg = ridges(f"{anchor}-scores", [Scores("clean", clean), *groups], head.threshold)
    charts.append({"title": "Scores of clean and of successful adversarial images", "svg": Markup(svg)})
    return charts


def _hits(row: DetectionRow, head: DetectorHead) -> Scores | None:
    """Return the scores of the images that an attack succeeded with; None if there are none."""
    cell = row.cells.get(head.key)
    if cell is None or cell.error is not None:
        return None
    chosen = cell.arrays["scores"][cell.arrays["success"] >= 0.5]
    return Scores(row.label, chosen) if len(chosen) else None


def sweep_charts(section: DetectionSection, anchor: str) -> list[dict[str, Any]]:
    """Return evasion and AUC against the radius, plain and carried over, of every detector."""
    charts = []
    for name, words in (("evasion", "Evasion"), ("auc", "AUC")):
        lines = []
        for how in dict.fromkeys(row.how for row in section.sweep):
            for index, head in enumerate(section.detectors):
                rows = [row for row in section.sweep if row.how == how and head.key in row.evades]
                rows = [row for row in rows if row.entries[head.key][name].summary.n]
                if rows:
                    values = [100 * row.entries[head.key][name].summary.mean for row in rows]
                    lines.append(Line(
                        f"{head.label}, {how}", [row.eps for row in rows], values, index, how != CARRIED
                    ))  # fmt: skip
        if lines:
            what = "evasion, % of n" if name == "evasion" else "AUC, % (over the hits)"
            svg = by_radius(f"{anchor}-sweep-{name}", what, lines)
            charts.append({"title": f"{words} against the radius of FGSM", "svg": Markup(svg)})
    return charts

"""Details of one detector on a page: threshold, settings, ROC curves, histograms of scores; and the sweep."""

from collections.abc import Sequence
from dataclasses import replace

from deepsec_jax.defenses import DEFENSES, preset_card
from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.studies.detectors.checks import rate_warning
from deepsec_jax.studies.detectors.detector import Detector
from deepsec_jax.studies.detectors.sweep import CARRIED
from deepsec_jax.studies.settings import Card, card_of, described, said, settings_block
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.page import Block, Detail, anchor_of, charts_block, table_view
from deepsec_jax.tables.score_plots import Line, Scores, by_radius, ridges, roc_curves
from deepsec_jax.tables.table import Row, Section

_ONCE = ("fpr", "fpr_correct")  # in the facts of a detector, since they do not depend on the attack


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return the details of each detector."""
    return [
        _detail(each, section, anchor_of(anchor, index), times) for index, each in enumerate(section.subjects)
    ]


def _detail(detector: Detector, section: Section, anchor: str, times: bool) -> Detail:
    attacks = section.tables[0]
    cells = {"clean images": detector.clean} | {
        str(row.name): row.cells.get(detector.key) for row in attacks.rows
    }
    channels = None if detector.clean is None else detector.clean.environment.get("channels")
    kind = str(detector.about["preset"])
    card: Card = card_of(preset_card, detector.name, section.fields["data"], kind, channels=channels)
    columns = [column for name, column in DETECTION_METRICS.items() if name not in _ONCE]
    span = replace(detector.span(columns), label="")
    whole = replace(attacks, spans=(span,), further=(), rows=tuple(
        replace(row, group=(), printed_n=None) for row in attacks.rows
    ))  # fmt: skip
    return Detail(
        key=detector.key, label=detector.label,
        aside="" if detector.label == detector.name else f"{detector.name}, {kind}",
        about=described(DEFENSES.get(detector.name.partition("@")[0])),
        errors=tuple(f"{name}: {cell.error}" for name, cell in cells.items() if cell and cell.error),
        blocks=(
            Block("facts", _facts(detector, times)),
            settings_block(detector.about["settings"], card, detector.changed),
            *charts_block(_charts(detector, attacks.rows, anchor)),
            *([Block("table", table_view(whole, {}), "All metrics")] if attacks.rows else []),
        ),
    )  # fmt: skip


def _facts(detector: Detector, times: bool) -> dict[str, str]:
    facts = {"Threshold": f"{digits(detector.threshold)}, the same for every attack"}
    limits = detector.limits()
    if detector.clean is None or limits is None:
        return facts
    known = detector.clean.environment
    low, high = (100 * end for end in limits)
    outside = ", not satisfied" if rate_warning(detector) else ""
    share, images = 100 * known["fpr"], known["validation"]
    facts["Set for"] = f"FPR {digits(share)} % on {images} clean images held out of training"
    facts["FPR, all clean test images"] = detector.rate("fpr")[1]
    facts["its 99 % interval, both samples"] = f"{low:.1f}\N{EN DASH}{high:.1f} %{outside}"
    facts["FPR, classified correctly"] = detector.rate("fpr_correct")[1]
    if times and known.get("seconds") and len(detector.clean_scores):
        each = known["seconds"] / len(detector.clean_scores)
        text = f"{1000 * each:.3g} ms per image"
        if known.get("forward_seconds"):
            text += f", {known['seconds'] / known['forward_seconds']:.2g} times classifying it"
        facts["Scoring"] = text
    if known.get("folder"):
        facts["Folder"] = str(known["folder"])
    noted = known.get("training", {})
    plain = {key: value for key, value in noted.items() if isinstance(value, int | float | str)}
    return facts | {key.replace("_", " ").capitalize(): said(value) for key, value in plain.items()}


def _charts(detector: Detector, rows: Sequence[Row], anchor: str) -> list[tuple[str, str]]:
    clean = detector.clean_scores
    if not len(clean):
        return []
    flagged = detector.rate("fpr")[0]
    found = [(row, scores) for row in rows if (scores := _hits(row, detector)) is not None]
    charts = []
    for goal, words in (("UAs", "untargeted"), ("TAs", "targeted")):
        attacked = [scores for row, scores in found if row.group[0] == goal]
        if attacked:
            svg = roc_curves(f"{anchor}-roc-{goal}", attacked, clean, flagged)
            charts.append((f"ROC, {words} attacks", svg))
    groups = [Scores("clean", clean), *(scores for _, scores in found)]
    svg = ridges(f"{anchor}-scores", groups, detector.threshold)
    return [*charts, ("Scores of clean and of successful adversarial images", svg)]


def _hits(row: Row, detector: Detector) -> Scores | None:
    """Return the scores of an attack's successful images; None if there are none."""
    cell = row.cells.get(detector.key)
    if cell is None or cell.error is not None:
        return None
    chosen = cell.arrays["scores"][cell.arrays["success"] >= 0.5]
    return Scores(row.label, chosen) if len(chosen) else None


def overview(section: Section, anchor: str) -> list[Block]:
    """Return evasion and AUC against the radius, plain and carried, of every detector."""
    charts = []
    sweep = section.rows("sweep")
    for name, words in (("evasion", "Evasion"), ("auc", "AUC")):
        lines = []
        for how in dict.fromkeys(row.name for row in sweep):
            for index, detector in enumerate(section.subjects):
                rows = [row for row in sweep if row.name == how and detector.key in row.values]
                rows = [row for row in rows if row.figures[detector.key][name].summary.n]
                if rows:
                    values = [100 * row.figures[detector.key][name].summary.mean for row in rows]
                    radii = [float(row.base) for row in rows]
                    lines.append(Line(f"{detector.label}, {how}", radii, values, index, how != CARRIED))
        if lines:
            what = "evasion, % of n" if name == "evasion" else "AUC, % (over the hits)"
            svg = by_radius(f"{anchor}-sweep-{name}", what, lines)
            charts.append((f"{words} against the radius of FGSM", svg))
    intro = "Dashed: FGSM's image at each radius. Solid: the best image over all radii up to it."
    return charts_block(charts, "Against the radius", intro)

"""What a reader must know before trusting a table of detectors, found in the figures themselves."""

import numpy as np

from deepsec_jax.evaluation.detection_entries import DetectorHead, key_of, rate_in_words
from deepsec_jax.evaluation.detection_sweep import PLAIN
from deepsec_jax.evaluation.detection_table import DetectionSection
from deepsec_jax.evaluation.gaps import failures, findings_of, lacking
from deepsec_jax.evaluation.silence import silence, silent_images, without_number
from deepsec_jax.metrics import DETECTION_METRICS, fpr_limits, summarise_detection
from deepsec_jax.runs.cells import CLEAN, Cell

_NOTHING = np.zeros(0, np.float32)


def detection_warnings(section: DetectionSection) -> list[str]:
    """Return one sentence per finding: failed cells, scores the wrong way round, a threshold that fails."""
    changed = [
        f"{head.label}: {', '.join(head.changed)} differ from the {head.about['preset']} preset."
        for head in section.detectors
        if head.changed
    ]
    rates = [text for head in section.detectors if (text := rate_warning(head))]
    areas = [text for head in section.detectors for text in _areas(section, head)]
    swept = [text for head in section.detectors if (text := _falls(section, head))]
    figures = [*rates, *areas, *swept, *_radius(section), *_absences(section)]
    findings = findings_of(section.cells, lambda _: section.base)
    return [*failures(section.cells), *changed, *findings, *_silences(section), *figures]


def _silences(section: DetectionSection) -> list[str]:
    """Return on how many images a score is no number, or the classifier gives no answer, each said once."""
    labels = {head.key: head.label for head in section.detectors}
    found: list[str] = []
    for cell in section.cells:
        if cell.error is not None:
            continue
        what = "clean test images" if cell.kind == CLEAN else f"images of {_attack_of(cell)}"
        found += without_number(labels[key_of(cell)], cell.arrays["scores"], what)
        found += silence(section.base, silent_images(cell.arrays), len(cell.arrays["scores"]), what)
    return list(dict.fromkeys(found))


def _attack_of(cell: Cell) -> str:
    name = str(cell.config["attack"]["name"])
    return f"{name}@{cell.config['eps']:g}" if "eps" in cell.config else name


def limits_of(head: DetectorHead) -> tuple[float, float] | None:
    """Return the 99 % interval of the FPR on clean test images, both samples counted; None without them."""
    if head.clean is None or head.clean.error is not None:
        return None
    known = head.clean.environment
    return fpr_limits(float(known["fpr"]), int(known["validation"]), len(head.clean_scores))


def rate_warning(head: DetectorHead) -> str:
    """Return what is wrong with a detector's FPR on clean test images; empty if nothing is."""
    limits = limits_of(head)
    if limits is None:
        return ""
    assert head.clean is not None
    summary = summarise_detection(DETECTION_METRICS["fpr"], head.record(_NOTHING, _NOTHING))
    low, high = limits
    if low <= summary.mean <= high:
        return ""
    asked = f"the {100 * head.clean.environment['fpr']:g} % that its threshold was set for"
    side = "below" if summary.mean < low else "above"
    why = (
        "many scores may be equal, so that fewer lie above any threshold"
        if summary.mean < low
        else "the images that set the threshold look more ordinary to it than test images do"
    )
    return (
        f"{head.label}: FPR {rate_in_words('fpr', summary)} clean test images is {side} {asked}, outside the "
        f"99 % interval {100 * low:.1f}\N{EN DASH}{100 * high:.1f} % that counts the "
        f"{head.clean.environment['validation']} images that set it as well: {why}."
    )


def _areas(section: DetectionSection, head: DetectorHead) -> list[str]:
    """Return against which attacks the score is no better than chance, or the wrong way round."""
    against: list[str] = []
    guessing: list[str] = []
    for row in section.rows:
        area = row.entries[head.key]["auc"].summary
        if not area.n or area.mean >= 0.5:
            continue
        said = f"{row.name} {rate_in_words('auc', area)}"
        (against if area.high < 0.5 else guessing).append(said)
    found = []
    if against:
        found.append(
            f"{head.label}: AUC below 0.5 against {'; '.join(against)}: these adversarial images look more "
            "ordinary to it than clean ones do, and no threshold on this score helps."
        )
    if guessing:
        found.append(
            f"{head.label}: AUC below 0.5, though the interval holds 0.5, against {'; '.join(guessing)}: no "
            "better than guessing."
        )
    return found


def _falls(section: DetectionSection, head: DetectorHead) -> str:
    """Return where plain FGSM evades less at a larger radius, which says something of FGSM alone."""
    plain = [row for row in section.sweep if row.how == PLAIN and head.key in row.evades]
    shares = [float(row.evades[head.key].mean()) for row in plain]
    pairs = [(small, large) for large in range(len(plain)) for small in range(large)]
    worst = max(pairs, key=lambda pair: shares[pair[0]] - shares[pair[1]], default=None)
    if worst is None or shares[worst[0]] <= shares[worst[1]]:
        return ""
    (before, small), (after, large) = ((100 * shares[at], plain[at].eps) for at in worst)
    return (
        f"{head.label}: plain FGSM evades less where it may change more, {before:.1f} % at ε = {small:g} and "
        f"{after:.1f} % at {large:g}: a weakness of the one step, not a strength of the detector; see the "
        "rows in which the best image is carried over."
    )


def _radius(section: DetectionSection) -> list[str]:
    large = [row.eps for row in section.sweep if row.how == PLAIN and row.eps >= 0.5]
    if not large:
        return []
    radii = ", ".join(f"{eps:g}" for eps in large)
    return [
        f"ε = {radii} is 0.5 or more; at that radius any image can be made plain grey, so success says "
        "nothing about the model."
    ]


def _absences(section: DetectionSection) -> list[str]:
    """Return why figures are n/a, one line for the attacks and columns that lack them for one reason."""
    found = []
    for head in section.detectors:
        shown = [
            (row.name, [e for e in row.entries[head.key].values() if e.absent != "failed"])
            for row in section.rows
        ]
        found += [
            f"{head.label}: {titles}: n/a, n = 0 ({reason}) for {', '.join(names)}."
            for (reason, titles), names in lacking(shown).items()
        ]
    return found


def sound(section: DetectionSection) -> str:
    """Return what was looked for, for a page that has found none of it."""
    said = [
        "no failed cell and no empty figure", "no false positive rate outside its interval",
        "no AUC below 0.5",
    ]  # fmt: skip
    if section.sweep:
        said.append("no radius at which plain FGSM evades less than at a smaller one")
    return ", ".join(said)

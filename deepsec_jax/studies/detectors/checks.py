"""Checks of tables of detectors: inverted scores, a wrong FPR, a decreasing sweep."""

from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.runs.cells import CLEAN, Cell
from deepsec_jax.studies.detectors.detector import Detector, key_of
from deepsec_jax.studies.detectors.sweep import PLAIN
from deepsec_jax.tables.build import name_of
from deepsec_jax.tables.checks import (
    GREY,
    Check,
    changed_settings,
    failed_cells,
    missing_values,
    model_findings,
)
from deepsec_jax.tables.numbers import digits, told
from deepsec_jax.tables.silence import silence, silent_images, without_number
from deepsec_jax.tables.table import Row, Section


def rate_warning(detector: Detector) -> str:
    """Return a warning about a detector's FPR on clean test images; empty if there is none."""
    limits = detector.limits()
    if limits is None or detector.clean is None:
        return ""
    mean, said = detector.rate("fpr")
    low, high = limits
    if low <= mean <= high:
        return ""
    known = detector.clean.environment
    side, why = (
        ("below", "many scores may be equal, so that fewer lie above any threshold")
        if mean < low
        else ("above", "the images that set the threshold look more ordinary to it than test images do")
    )
    return (
        f"{detector.label}: FPR {said} clean test images is {side} the {digits(100 * known['fpr'])} % that "
        f"its threshold was set for, outside the 99 % interval {100 * low:.1f}\N{EN DASH}{100 * high:.1f} % "
        f"that counts the {known['validation']} images that set it as well: {why}."
    )


def _silences(section: Section) -> list[str]:
    """Return the numbers of images with a NaN score, or without an answer of the classifier, each once."""
    labels = {each.key: each.label for each in section.subjects}
    base = section.fields["base"]
    found: list[str] = []
    for cell in section.cells:
        if cell.error is not None:
            continue
        what = "clean test images" if cell.kind == CLEAN else f"images of {_attack_of(cell)}"
        found += without_number(labels[key_of(cell)], cell.arrays["scores"], what)
        found += silence(base, silent_images(cell.arrays), len(cell.arrays["scores"]), what)
    return list(dict.fromkeys(found))


def _attack_of(cell: Cell) -> str:
    name = str(cell.config["attack"]["name"])
    return f"{name}@{digits(cell.config['eps'])}" if "eps" in cell.config else name


def _areas(section: Section, detector: Detector) -> list[str]:
    """Return the attacks on which the score is no better than chance, or inverted."""
    against: list[str] = []
    guessing: list[str] = []
    for row in section.rows("attacks"):
        area = row.figures[detector.key]["auc"].summary
        if area.n and area.mean < 0.5:
            said = f"{row.name} {told(DETECTION_METRICS['auc'], area)}"
            (against if area.high < 0.5 else guessing).append(said)
    found = []
    if against:
        found.append(
            f"{detector.label}: AUC below 0.5 against {'; '.join(against)}: these adversarial images look "
            "more ordinary to it than clean ones do, and no threshold on this score helps."
        )
    if guessing:
        found.append(
            f"{detector.label}: AUC below 0.5, though the interval holds 0.5, against {'; '.join(guessing)}: "
            "no better than guessing."
        )
    return found


def _plain(section: Section) -> list[Row]:
    return [row for row in section.rows("sweep") if row.name == PLAIN]


def _falls(section: Section, detector: Detector) -> str:
    """Return where plain FGSM evades less at a larger radius, which is a weakness of FGSM."""
    plain = [row for row in _plain(section) if detector.key in row.values]
    shares = [float(row.values[detector.key].mean()) for row in plain]
    pairs = [(small, large) for large in range(len(plain)) for small in range(large)]
    worst = max(pairs, key=lambda pair: shares[pair[0]] - shares[pair[1]], default=None)
    if worst is None or shares[worst[0]] <= shares[worst[1]]:
        return ""
    (before, small), (after, large) = ((100 * shares[at], plain[at].base) for at in worst)
    return (
        f"{detector.label}: plain FGSM evades less where it may change more, {before:.1f} % at ε = {small} "
        f"and {after:.1f} % at {large}: a weakness of the one step, not a strength of the detector; see the "
        "rows in which the best image is carried over."
    )


def _radius(section: Section) -> list[str]:
    large = [row.base for row in _plain(section) if float(row.base) >= 0.5]
    return [f"ε = {', '.join(large)} is {GREY} success says nothing about the model."] if large else []


CHECKS = (
    failed_cells(),
    changed_settings(),
    model_findings(lambda cell: name_of(cell.config["model"])),
    Check(_silences),
    Check(lambda section: [text for each in section.subjects if (text := rate_warning(each))],
          "no false positive rate outside its interval"),
    Check(lambda section: [text for each in section.subjects for text in _areas(section, each)],
          "no AUC below 0.5"),
    Check(lambda section: [text for each in section.subjects if (text := _falls(section, each))],
          "no radius at which plain FGSM evades less than at a smaller one",
          lambda section: bool(section.rows("sweep"))),
    Check(_radius),
    missing_values("attacks"),
)  # fmt: skip

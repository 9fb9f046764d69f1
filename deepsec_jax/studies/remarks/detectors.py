"""Remark 6: detectors are comparable, and larger perturbations are not easier to detect."""

import numpy as np

from deepsec_jax.studies.remarks.claims import (
    Claim,
    Verdict,
    means,
    not_measured,
    resampled,
    spearman,
    tested,
)
from deepsec_jax.studies.remarks.evidence import DETECTORS_STUDY, Evidence

COMPARABLE = Claim(
    "6a", "All detectors have comparable AUCs.",
    "largest minus smallest mean AUC of a detector over the paper's attacks", 0.1, above=False,
)  # fmt: skip
DIFFERENT = Claim(
    "6b", "Detectors have different strengths against different attacks.",
    "largest difference of two detectors' AUCs on one attack in favour of the one that is worse on average",
    0.05,
)  # fmt: skip
NOT_EASIER = Claim(
    "6c", "Larger perturbations are not easier to detect.",
    "smallest rank correlation, over detectors, of FGSM's radius and the AUC", 0.9, above=False,
)  # fmt: skip
FEW = 3


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on remark 6."""
    return [*_by_attack(evidence), _by_radius(evidence)]


def _by_attack(evidence: Evidence) -> list[Verdict]:
    names = sorted({name for name, _ in evidence.detection})
    attacks = [
        attack
        for attack in sorted({attack for _, attack in evidence.detection})
        if all((name, attack) in evidence.detection and "auc" in evidence.detection[name, attack].columns
               for name in names)
    ]  # fmt: skip
    if len(names) < 2 or not attacks:
        lacking = f"needs AUCs of two detectors on the paper's attacks: {DETECTORS_STUDY}"
        return [not_measured(claim, lacking) for claim in (COMPARABLE, DIFFERENT)]
    n = len(evidence.detection[names[0], attacks[0]].columns["auc"])
    weights = resampled(n)
    each = np.stack(
        [np.stack([_area(weights, evidence, name, attack) for attack in attacks], axis=1) for name in names],
        axis=1,
    )  # [R, detectors, attacks]
    mean = np.nanmean(each, axis=2)
    over, order = f"{', '.join(names)}; {len(attacks)} attacks", np.argsort(mean[0])
    reversed_gap = np.max(
        [
            np.nanmax(each[:, worse] - each[:, better], axis=1)
            for place, worse in enumerate(order)
            for better in order[place + 1 :]
        ],
        axis=0,
    )
    return [
        tested(COMPARABLE, mean.max(axis=1) - mean.min(axis=1), n, over),
        tested(DIFFERENT, reversed_gap, n, over),
    ]  # fmt: skip


def _area(weights: np.ndarray, evidence: Evidence, name: str, attack: str) -> np.ndarray:
    cell = evidence.detection[name, attack]
    values = np.asarray(cell.columns["auc"])
    if len(values) != weights.shape[1]:
        return np.full(len(weights), np.nan)
    return means(weights, values, cell.arrays["success"] >= 0.5)


def _by_radius(evidence: Evidence) -> Verdict:
    names = sorted({name for name, _ in evidence.sweep})
    radii = sorted({eps for _, eps in evidence.sweep})
    complete = [
        name
        for name in names
        if all((name, eps) in evidence.sweep and "auc" in evidence.sweep[name, eps].columns for eps in radii)
    ]
    if not complete or len(radii) < FEW:
        return not_measured(NOT_EASIER, f"needs FGSM at {FEW} radii: {DETECTORS_STUDY}")
    n = len(evidence.sweep[complete[0], radii[0]].columns["auc"])
    weights = resampled(n)
    sizes = np.broadcast_to(np.asarray(radii), (len(weights), len(radii)))
    found = []
    for name in complete:
        cells = [evidence.sweep[name, eps] for eps in radii]
        areas = [
            means(weights, np.asarray(cell.columns["auc"]), cell.arrays["success"] >= 0.5) for cell in cells
        ]
        found.append(spearman(sizes, np.stack(areas, axis=1)))
    over = f"{', '.join(complete)}; {len(radii)} radii"
    return tested(NOT_EASIER, np.min(found, axis=0), n, over)

"""Remark 6: detectors are comparable, and larger perturbations are not easier to detect."""

from collections.abc import Sequence

import numpy as np

from deepsec_jax.metrics import DetectionRecord
from deepsec_jax.metrics.detection_record import ordered
from deepsec_jax.studies.remarks.claims import (
    Claim,
    Verdict,
    known_least,
    known_mean,
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
    "smallest rank correlation of FGSM's radius and the AUC, over detectors whose AUC varies", 0.9,
    above=False,
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
        if all(_has_success(evidence.detection.get((name, attack))) for name in names)
    ]
    if len(names) < 2 or not attacks:
        lacking = f"needs AUCs of two detectors on the paper's attacks: {DETECTORS_STUDY}"
        return [not_measured(claim, lacking) for claim in (COMPARABLE, DIFFERENT)]
    n = len(evidence.detection[names[0], attacks[0]].scores)
    each = np.stack(
        [resampled_areas([evidence.detection[name, attack] for attack in attacks]) for name in names], axis=1
    )  # [R, detectors, attacks]
    mean = known_mean(each, axis=2)
    over, order = f"{', '.join(names)}; {len(attacks)} attacks", np.argsort(mean[0])
    reversed_gap = np.max(
        [
            -known_least(each[:, better] - each[:, worse], axis=1)
            for place, worse in enumerate(order)
            for better in order[place + 1 :]
        ],
        axis=0,
    )
    return [
        tested(COMPARABLE, mean.max(axis=1) - mean.min(axis=1), n, over),
        tested(DIFFERENT, reversed_gap, n, over),
    ]  # fmt: skip


def _has_success(record: DetectionRecord | None) -> bool:
    return record is not None and bool((record.success >= 0.5).any())


def resampled_areas(records: Sequence[DetectionRecord]) -> np.ndarray:
    """Return the AUC of successful images against clean ones in every resample, [R, A].

    Attacked and clean images are resampled, each by themselves; all attacks and detectors share the draws.

    Args:
        records: of one detector, A attacks on the same n images; all have the same clean scores.
    """
    clean = ordered(records[0].clean)
    order = np.argsort(clean)
    drawn = resampled(len(clean), seed=1)
    total = np.cumsum(drawn[:, order], axis=1)
    below = np.concatenate([np.zeros((len(drawn), 1)), total], axis=1) / total[:, -1:]
    weights = resampled(len(records[0].scores))

    def area(record: DetectionRecord) -> np.ndarray:
        ends = (np.searchsorted(clean[order], ordered(record.scores), side) for side in ("left", "right"))
        placed = sum(below[:, end] for end in ends) / 2.0  # [R, n]
        hits = weights * (record.success >= 0.5)
        known = hits.sum(axis=1)
        sums = (hits * placed).sum(axis=1)
        return np.where(known > 0, sums / np.where(known > 0, known, 1.0), np.nan)

    return np.stack([area(record) for record in records], axis=1)


def _by_radius(evidence: Evidence) -> Verdict:
    names = sorted({name for name, _ in evidence.sweep})
    radii = sorted({eps for _, eps in evidence.sweep})
    complete = [name for name in names if all(_has_success(evidence.sweep.get((name, eps))) for eps in radii)]
    if not complete or len(radii) < FEW:
        return not_measured(NOT_EASIER, f"needs FGSM at {FEW} radii: {DETECTORS_STUDY} --sweep")
    n = len(evidence.sweep[complete[0], radii[0]].scores)
    found = {}
    for name in complete:
        areas = resampled_areas([evidence.sweep[name, eps] for eps in radii])
        found[name] = spearman(np.broadcast_to(np.asarray(radii), areas.shape), areas)
    # A detector with one AUC at all radii, such as 1, has no correlation and decides nothing.
    varying = [name for name in complete if not np.isnan(found[name][0])]
    if not varying:
        return not_measured(NOT_EASIER, f"the AUC of {', '.join(complete)} is the same at every radius")
    over = f"{', '.join(varying)}; {len(radii)} radii"
    return tested(NOT_EASIER, known_least([found[name] for name in varying], axis=0), n, over)

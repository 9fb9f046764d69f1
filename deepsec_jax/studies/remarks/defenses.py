"""Remarks 4 and 5: utility of defenses, and that none is universal."""

import numpy as np

from deepsec_jax.defenses import DEFENSES
from deepsec_jax.studies.remarks.claims import (
    Claim,
    Verdict,
    known_least,
    known_mean,
    means,
    not_measured,
    resampled,
    tested,
)
from deepsec_jax.studies.remarks.evidence import SECURITY_STUDY, UTILITY_STUDY, Evidence

KEEPS, SHIFT, SPREAD = 0.02, 0.05, 0.02
"""Of accuracy, confidence and output distribution: what counts as kept.  The paper names no limits."""

FEW = 3
"""Fewer defenses are not most of them."""

PRESERVED = Claim(
    "4", "Defenses that keep the accuracy mostly keep confidence and stability, too.",
    f"share of the defenses with an accuracy of at most {100 * KEEPS:g} points less whose CCV is below "
    f"{100 * SHIFT:g} points and whose COS is below {SPREAD:g}", 0.5,
)  # fmt: skip
UNIVERSAL = Claim(
    "5a", "No defense is universal.",
    "largest, over defenses, of the smallest accuracy on replayed successes of an attack", 0.9, above=False,
)  # fmt: skip
RETRAINED = Claim(
    "5b", "Defenses that retrain do better than others.",
    "mean accuracy on replayed successes of defenses that retrain, minus that of the others",
)  # fmt: skip


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on remarks 4 and 5."""
    return [_preserved(evidence), *_replayed(evidence)]


def _preserved(evidence: Evidence) -> Verdict:
    kept = []
    cells = [cell for cell in evidence.utility.values() if {"cav", "ccv", "cos"} <= cell.columns.keys()]
    sizes = {len(cell.columns["cav"]) for cell in cells}
    if not cells or len(sizes) > 1:
        return not_measured(PRESERVED, f"needs CAV, CCV and COS of defenses on one sample: {UTILITY_STUDY}")
    n = sizes.pop()
    weights = resampled(n)
    for cell in cells:
        both = (cell.arrays["correct_raw"] >= 0.5) & (cell.arrays["correct"] >= 0.5)
        change = means(weights, np.asarray(cell.columns["cav"]))
        if change[0] >= -KEEPS:
            shift, spread = (means(weights, np.asarray(cell.columns[name]), both) for name in ("ccv", "cos"))
            kept.append((shift < SHIFT) & (spread < SPREAD))
    if len(kept) < FEW:
        lacking = f"needs {FEW} defenses that lose at most {100 * KEEPS:g} points, got {len(kept)}"
        return not_measured(PRESERVED, lacking)
    return tested(PRESERVED, np.mean(kept, axis=0), n, f"{len(kept)} of {len(cells)} defenses")


def _replayed(evidence: Evidence) -> list[Verdict]:
    names = sorted({name for name, _ in evidence.replayed})
    attacks = [
        attack
        for attack in evidence.attacks
        if all((name, attack) in evidence.replayed for name in names)
        and (evidence.attacks[attack].arrays["success"] >= 0.5).any()
    ]
    if not names or not attacks:
        lacking = f"needs attacks replayed on defenses: {SECURITY_STUDY}"
        return [not_measured(claim, lacking) for claim in (UNIVERSAL, RETRAINED)]
    weights = resampled(evidence.n)
    accuracy = {
        name: np.stack([means(weights, *evidence.replayed[name, attack]) for attack in attacks], axis=1)
        for name in names
    }
    best = np.max([known_least(each, axis=1) for each in accuracy.values()], axis=0)
    over = f"{len(names)} defenses, {len(attacks)} attacks"
    found = [tested(UNIVERSAL, best, evidence.n, over)]
    groups = [[name for name in names if _retrains(name) is retrains] for retrains in (True, False)]
    if not all(groups):
        return [*found, not_measured(RETRAINED, "needs a defense that retrains and one that does not")]
    sides = [np.mean([known_mean(accuracy[name], axis=1) for name in group], axis=0) for group in groups]
    over = f"{', '.join(groups[0])} against {', '.join(groups[1])}"
    return [*found, tested(RETRAINED, sides[0] - sides[1], evidence.n, over)]


def _retrains(name: str) -> bool:
    return not getattr(DEFENSES.get(name.partition("@")[0]), "keeps_network", False)

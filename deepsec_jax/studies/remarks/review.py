"""The review's three findings: means over attacks, replayed images, and successes as the denominator."""

from collections import Counter

import numpy as np

from deepsec_jax.studies.remarks.claims import (
    Claim,
    Verdict,
    known_mean,
    means,
    not_measured,
    resampled,
    tested,
)
from deepsec_jax.studies.remarks.evidence import SECURITY_STUDY, Evidence

AVERAGE = Claim(
    "R1", "A mean over attacks hides the attack that counts: robustness is the worst case.",
    "mean over attacks of a defense's remaining accuracy minus its worst case per image, mean over defenses",
    0.1,
)  # fmt: skip
OBLIVIOUS = Claim(
    "R2", "Images made on the undefended model do not measure a defense.",
    "remaining accuracy under replayed attacks minus that under the same attacks on the defense",
    0.1,
)  # fmt: skip
DENOMINATOR = Claim(
    "R3", "Accuracy on an attack's own successes makes the weak FGSM look stronger than PGD.",
    "the smaller of: accuracy on PGD's successes minus that on FGSM's; accuracy of all n under FGSM "
    "minus that under PGD, both on the defense", 0.0,
)  # fmt: skip


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on the review's findings."""
    counts = Counter(name for name, _ in evidence.own)
    names = sorted(name for name, count in counts.items() if count > 1)
    lacking = f"needs two attacks on a defense itself: {SECURITY_STUDY}"
    if not names:
        return [not_measured(claim, lacking) for claim in (AVERAGE, OBLIVIOUS, DENOMINATOR)]
    weights = resampled(evidence.n)
    gaps, replays, ranks = [], [], []
    for name in names:
        own = {attack: values for (of, attack), values in evidence.own.items() if of == name}
        under = [means(weights, values) for values in own.values()]
        gaps.append(np.mean(under, axis=0) - means(weights, np.minimum.reduce(list(own.values()))))
        for attack, values in own.items():
            if (name, attack) in evidence.replayed:
                right, _ = evidence.replayed[name, attack]
                replays.append(means(weights, right) - means(weights, values))
        ranks += _ranked(evidence, weights, name)
    over = f"{len(names)} defenses"
    found = [tested(AVERAGE, np.mean(gaps, axis=0), evidence.n, over)]
    for claim, each in ((OBLIVIOUS, replays), (DENOMINATOR, ranks)):
        what = f"{over}, {len(each)} comparisons"
        found.append(
            tested(claim, known_mean(each, axis=0), evidence.n, what)
            if each
            else not_measured(claim, lacking)
        )
    return found


def _ranked(evidence: Evidence, weights: np.ndarray, name: str) -> list[np.ndarray]:
    """Return the statistic of finding 3 for one defense; none without both attacks."""
    pair = ("fgsm", "pgd")
    if not all((name, attack) in evidence.replayed and (name, attack) in evidence.own for attack in pair):
        return []
    on_hits = [means(weights, *evidence.replayed[name, attack]) for attack in pair]
    of_all = [means(weights, evidence.own[name, attack]) for attack in pair]
    return [np.minimum(on_hits[1] - on_hits[0], of_all[0] - of_all[1])]

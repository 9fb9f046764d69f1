"""Remarks 7 and 8: transferability, and ensembles of defenses."""

import numpy as np

from deepsec_jax.studies.ensembles.drawn import LABELS
from deepsec_jax.studies.ensembles.figures import AVERAGED, replayed_values
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
from deepsec_jax.studies.remarks.evidence import ENSEMBLES_STUDY, PAPER, TRANSFERABILITY, Evidence

UNTARGETED = Claim(
    "7a", "Untargeted attacks transfer more than targeted ones.",
    "mean transfer rate over untargeted attacks minus that over targeted ones",
)  # fmt: skip
LINF = Claim(
    "7b", "L-inf attacks transfer more than L2 and L0 attacks.",
    "mean transfer rate over L-inf attacks minus that over others; the smaller one of the two goals",
)  # fmt: skip
CONFIDENT = Claim(
    "7c", "Images that transfer have a higher confidence than those that fool the original model only.",
    "confidence on the original model of successes that transfer minus that of others, mean over attacks",
)  # fmt: skip
NO_BETTER = Claim(
    "8a", "Ensembles do not improve defenses significantly as a whole.",
    "mean accuracy of ensembles on replayed successes minus that of their best single member", 0.05,
    above=False,
)  # fmt: skip
LOWER_BOUND = Claim(
    "8b", "Ensembles improve the lower bound of individual defenses.",
    "smallest accuracy over attacks of ensembles minus the mean of that of their members",
)  # fmt: skip


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on remarks 7 and 8."""
    return [*_transfer(evidence), *_ensembles(evidence)]


def _transfer(evidence: Evidence) -> list[Verdict]:
    names = [
        name for name in evidence.transfer if (evidence.transfer[name][0].arrays["success"] >= 0.5).any()
    ]
    if not names:
        lacking = f"needs images judged on other models: {TRANSFERABILITY}"
        return [not_measured(claim, lacking) for claim in (UNTARGETED, LINF, CONFIDENT)]
    weights = resampled(evidence.n)
    moved = {name: np.mean([c.arrays["reached"] for c in evidence.transfer[name]], axis=0) for name in names}
    hits = {name: evidence.transfer[name][0].arrays["success"] >= 0.5 for name in names}
    rate = {name: means(weights, moved[name], hits[name]) for name in names}

    def mean(chosen: list[str]) -> np.ndarray:
        return known_mean([rate[name] for name in chosen], axis=0)

    goals = {goal: evidence.of_goal(names, goal) for goal in ("UAs", "TAs")}
    found = []
    if all(goals.values()):
        over = f"{len(goals['UAs'])} untargeted, {len(goals['TAs'])} targeted attacks"
        found.append(tested(UNTARGETED, mean(goals["UAs"]) - mean(goals["TAs"]), evidence.n, over))
    else:
        found.append(not_measured(UNTARGETED, "needs attacks of both goals"))
    gaps = []
    for group in goals.values():
        inside = [name for name in group if PAPER.group(name)[1] == "L∞"]
        outside = [name for name in group if name not in inside]
        if inside and outside:
            gaps.append(mean(inside) - mean(outside))
    found.append(
        tested(LINF, np.min(gaps, axis=0), evidence.n, f"{len(names)} attacks, {len(gaps)} goals")
        if gaps else not_measured(LINF, "needs L-inf and other attacks of one goal")
    )  # fmt: skip
    apart = []
    for name in names:
        cell, there = evidence.attacks.get(name), moved[name] >= 0.5
        if cell is None or not (hits[name] & there).any() or not (hits[name] & ~there).any():
            continue
        sure = np.asarray(cell.arrays["confidence"], np.float64)
        apart.append(means(weights, sure, hits[name] & there) - means(weights, sure, hits[name] & ~there))
    found.append(
        tested(CONFIDENT, known_mean(apart, axis=0), evidence.n, f"{len(apart)} attacks")
        if apart else not_measured(CONFIDENT, "no attack with images of both kinds")
    )  # fmt: skip
    return found


def _ensembles(evidence: Evidence) -> list[Verdict]:
    known = evidence.ensembles
    sources = {} if known is None else {
        str(cell.config["attack"]["name"]): str(cell.config["source"])
        for cell in known.answers.values()
        if cell.config["access"] == "base" and cell.config["attack"]["name"] in evidence.attacks
        and (evidence.attacks[cell.config["attack"]["name"]].arrays["success"] >= 0.5).any()
    }  # fmt: skip
    if known is None or not sources or not known.ensembles:
        lacking = f"needs attacks replayed on ensembles: {ENSEMBLES_STUDY}"
        return [not_measured(claim, lacking) for claim in (NO_BETTER, LOWER_BOUND)]
    weights = resampled(evidence.n)
    better, lower, used = [], [], []
    for ensemble in dict.fromkeys(known.ensembles):
        together, alone = [], []
        for name, source in sources.items():
            hits = evidence.attacks[name].arrays["success"] >= 0.5
            whole = replayed_values(known, ensemble.members, source)
            each = [replayed_values(known, (member,), source) for member in ensemble.members]
            if whole is None or any(one is None for one in each):
                break
            together.append(means(weights, whole[AVERAGED.name], hits))
            alone.append([means(weights, one[AVERAGED.name], hits) for one in each if one is not None])
        else:
            joint, single = np.stack(together), np.stack(alone)  # [attacks, R], [attacks, members, R]
            better.append(known_mean(joint, axis=0) - known_mean(single, axis=0).max(axis=0))
            lower.append(known_least(joint, axis=0) - known_least(single, axis=0).mean(axis=0))
            used.append(LABELS[ensemble.kind].lower())
    if not better:
        lacking = f"needs the answers of all members: {ENSEMBLES_STUDY}"
        return [not_measured(claim, lacking) for claim in (NO_BETTER, LOWER_BOUND)]
    over = f"{len(better)} ensembles, {len(sources)} attacks"
    return [
        tested(NO_BETTER, np.mean(better, axis=0), evidence.n, over),
        tested(LOWER_BOUND, np.mean(lower, axis=0), evidence.n, over),
    ]

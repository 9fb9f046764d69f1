"""Remarks 1, 2 and 3: success, imperceptibility and robustness of attacks."""

import numpy as np

from deepsec_jax.studies.remarks.claims import (
    Claim,
    Verdict,
    known_least,
    means,
    not_measured,
    resampled,
    spearman,
    table,
    tested,
)
from deepsec_jax.studies.remarks.evidence import ATTACKS_STUDY, TRANSFERABILITY, Evidence

SUCCEED = Claim(
    "1a", "In most cases attacks have a high success rate.",
    "share of the paper's attacks with success on more than half of the images", 0.5,
)  # fmt: skip
RESILIENT = Claim(
    "1b", "Images with a low confidence in the true class (ACTC) fool other models more often.",
    "rank correlation over attacks of ACTC and mean transfer to the other models", above=False,
)  # fmt: skip
SENSITIVE = Claim(
    "2a", "PSD is the most sensitive measure of imperceptibility.",
    "coefficient of variation over attacks of PSD, minus the largest of L0, L2, L-inf and ASS",
)  # fmt: skip
INSENSITIVE = Claim(
    "2b", "ASS is the least sensitive measure.",
    "coefficient of variation over attacks of ASS, minus the smallest of L0, L2, L-inf and PSD", above=False,
)  # fmt: skip
TRADE_OFF = Claim(
    "2c", "More success or confidence costs more distortion.",
    "smallest gain, relative to the weaker setting, of success (FGSM), confidence (CW2) and L2 (both)",
)  # fmt: skip
CONFIDENT_BLUR = Claim(
    "3a", "Images with a high ACAC withstand blur.", "rank correlation over attacks of ACAC and RGB"
)
CONFIDENT_JPEG = Claim(
    "3b", "Images with a high ACAC withstand compression.", "rank correlation over attacks of ACAC and RIC"
)
UAS_BLUR = Claim(
    "3c", "Untargeted attacks are more robust to blur than targeted ones.",
    "mean RGB over untargeted attacks minus that over targeted ones",
)  # fmt: skip
UAS_JPEG = Claim(
    "3d", "Untargeted attacks are more robust to compression than targeted ones.",
    "mean RIC over untargeted attacks minus that over targeted ones",
)  # fmt: skip
MITIGATED = Claim(
    "3e", "For certain targeted attacks transformations mitigate the perturbation.",
    "smallest share, over targeted attacks, RGB and RIC, of successes that stay", 0.5, above=False,
)  # fmt: skip
EVERY = (
    SUCCEED, RESILIENT, SENSITIVE, INSENSITIVE, TRADE_OFF, CONFIDENT_BLUR, CONFIDENT_JPEG, UAS_BLUR, UAS_JPEG,
    MITIGATED,
)  # fmt: skip
FEW = 4
"""Fewer attacks give no correlation."""


class _Table:
    """Resampled means of metric columns over the hits of each attack."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.weights = evidence, resampled(evidence.n)

    def named(self, *columns: str) -> list[str]:
        """Return the attacks with hits and with all these columns."""
        return [
            name
            for name, cell in self.evidence.attacks.items()
            if (cell.arrays["success"] >= 0.5).any() and all(column in cell.columns for column in columns)
        ]

    def column(self, name: str, names: list[str]) -> np.ndarray:
        """Return the means of a column, [R, A]."""

        def of(attack: str) -> np.ndarray:
            cell = self.evidence.attacks[attack]
            return means(self.weights, np.asarray(cell.columns[name]), cell.arrays["success"] >= 0.5)

        return table(names, of)

    def success(self, names: list[str]) -> np.ndarray:
        """Return the success rates, [R, A]."""
        return table(
            names,
            lambda name: means(
                self.weights, np.asarray(self.evidence.attacks[name].arrays["success"], float)
            ),
        )


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on remarks 1 to 3."""
    if not evidence.attacks:
        lacking = f"needs attacks: {ATTACKS_STUDY}"
        return [not_measured(claim, lacking) for claim in EVERY]
    found = _Table(evidence)
    names = list(evidence.attacks)
    share = (found.success(names) > 0.5).mean(axis=1)
    return [
        tested(SUCCEED, share, evidence.n, f"{len(names)} attacks"), _resilient(found), *_sensitive(found),
        _trade_off(found),
        _correlated(CONFIDENT_BLUR, found, "rgb"), _correlated(CONFIDENT_JPEG, found, "ric"),
        _by_goal(UAS_BLUR, found, "rgb"), _by_goal(UAS_JPEG, found, "ric"),
        _mitigated(found),
    ]  # fmt: skip


def _resilient(found: _Table) -> Verdict:
    evidence = found.evidence
    names = [name for name in found.named("actc") if name in evidence.transfer]
    if len(names) < FEW:
        return not_measured(RESILIENT, f"needs ACTC and transfer of {FEW} attacks: {TRANSFERABILITY}")

    def moved(name: str) -> np.ndarray:
        cells = evidence.transfer[name]
        mean = np.mean([cell.arrays["reached"] for cell in cells], axis=0)
        return means(found.weights, mean, cells[0].arrays["success"] >= 0.5)

    rho = spearman(found.column("actc", names), table(names, moved))
    return tested(RESILIENT, rho, evidence.n, f"{len(names)} attacks")


def _sensitive(found: _Table) -> list[Verdict]:
    columns = ("l0", "l2", "linf", "psd", "ass")
    names = found.named(*columns)
    if len(names) < FEW:
        lacking = f"needs L0, L2, L-inf, PSD and ASS of {FEW} attacks: {ATTACKS_STUDY}"
        return [not_measured(claim, lacking) for claim in (SENSITIVE, INSENSITIVE)]
    spread = {}
    for column in columns:
        values = found.column(column, names)
        spread[column] = values.std(axis=1) / np.abs(values.mean(axis=1))
    most = spread["psd"] - np.max([spread[name] for name in ("l0", "l2", "linf", "ass")], axis=0)
    least = spread["ass"] - np.min([spread[name] for name in ("l0", "l2", "linf", "psd")], axis=0)
    over = f"{len(names)} attacks"
    return [
        tested(SENSITIVE, most, found.evidence.n, over),
        tested(INSENSITIVE, least, found.evidence.n, over),
    ]


def _trade_off(found: _Table) -> Verdict:
    names = found.named("l2", "acac")
    strong_fgsm = next((name for name in ("fgsm@0.5", "fgsm@0.2") if name in names), "")
    gains, used = [], []
    if strong_fgsm and "fgsm" in names:
        pair = ["fgsm", strong_fgsm]
        gains += [_gain(found.success(pair)), _gain(found.column("l2", pair))]
        used.append("FGSM")
    if {"cw2", "cw2@k20"} <= set(names):
        pair = ["cw2", "cw2@k20"]
        gains += [_gain(found.column("acac", pair)), _gain(found.column("l2", pair))]
        used.append("CW2")
    if not gains:
        return not_measured(TRADE_OFF, "needs FGSM at two radii or CW2 at two confidences, with L2 and ACAC: "
                            f"{ATTACKS_STUDY}")  # fmt: skip
    return tested(TRADE_OFF, np.min(gains, axis=0), found.evidence.n, " and ".join(used))


def _gain(pair: np.ndarray) -> np.ndarray:
    """Return the relative gain of the second of two columns [R, 2] over the first."""
    return pair[:, 1] / np.where(pair[:, 0] > 0, pair[:, 0], np.nan) - 1.0


def _correlated(claim: Claim, found: _Table, column: str) -> Verdict:
    names = found.named("acac", column)
    if len(names) < FEW:
        return not_measured(claim, f"needs ACAC and {column.upper()} of {FEW} attacks: {ATTACKS_STUDY}")
    rho = spearman(found.column("acac", names), found.column(column, names))
    return tested(claim, rho, found.evidence.n, f"{len(names)} attacks")


def _by_goal(claim: Claim, found: _Table, column: str) -> Verdict:
    names = found.named(column)
    groups = [found.evidence.of_goal(names, goal) for goal in ("UAs", "TAs")]
    if not all(groups):
        return not_measured(claim, f"needs {column.upper()} of attacks of both goals: {ATTACKS_STUDY}")
    gap = np.subtract(*(found.column(column, group).mean(axis=1) for group in groups))
    return tested(
        claim, gap, found.evidence.n, f"{len(groups[0])} untargeted, {len(groups[1])} targeted attacks"
    )


def _mitigated(found: _Table) -> Verdict:
    kept = [
        found.column(column, names)
        for column in ("rgb", "ric")
        if (names := found.evidence.of_goal(found.named(column), "TAs"))
    ]
    if not kept:
        return not_measured(MITIGATED, f"needs RGB or RIC of targeted attacks: {ATTACKS_STUDY}")
    least = known_least(np.concatenate(kept, axis=1), axis=1)
    return tested(MITIGATED, least, found.evidence.n, f"{sum(each.shape[1] for each in kept)} figures")

"""No attack reports a success closer than a solver proves possible, and how close each comes."""

from functools import cache

import jax
import numpy as np
import pytest

from attacks.exact import NETWORKS, NORMS, distances, load, violations
from attacks.small import ready, small
from deepsec_jax.attacks import (
    APGD,
    ATTACKS,
    EAD,
    FAB,
    FMN,
    PGD,
    AutoAttack,
    DeepFool,
    RayS,
    SigmaZero,
    SmallestEps,
)
from deepsec_jax.evaluation import judge

KEY = jax.random.key(0)
CLOSE = {
    "smallest eps apgd": (SmallestEps(APGD(steps=30), search_steps=12), "linf", 1.03, 1.25),
    "fab linf": (FAB(norm="linf", steps=50), "linf", 1.01, 1.05),
    "fab linf, refined": (FAB(norm="linf", steps=50, refine=12), "linf", 1.003, 1.05),
    "fmn linf": (FMN(norm="linf", steps=200), "linf", 1.02, 1.5),
    "deepfool linf": (DeepFool(norm="linf"), "linf", 1.05, 1.4),
    "rays": (RayS(queries=2000), "linf", 1.03, 1.5),
    "fab l1": (FAB(norm="l1", steps=50), "l1", 1.01, 1.06),
    "fab l1, refined": (FAB(norm="l1", steps=50, refine=12), "l1", 1.003, 1.06),
    "fmn l1": (FMN(norm="l1", steps=200), "l1", 1.01, 1.75),
    "ead": (EAD(rule="l1", steps=200, targeted=False), "l1", 2.0, 3.3),
    "fmn l0": (FMN(norm="l0", steps=200), "l0", 1.0, 1.5),
    "sigma-zero": (SigmaZero(steps=200), "l0", 1.0, 2.0),
}
"""Attack, norm, and the factors of the exact distance that its median and its 90th percentile stay within."""


@cache
def exact(name):
    return load(name)


def run(attack, table):
    """Return the images and which succeed, judged from outside."""
    x, labels = table.images, table.labels
    targets = (labels + 1) % 10 if getattr(attack, "targeted", False) else labels
    x_adv = ready(attack, table.model, x)(table.model, x, targets, key=KEY)
    return np.asarray(x_adv), np.asarray(judge(table.model, x, x_adv, labels).success) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_is_sound(name):
    """Bounds meet, and norms fit together: a change of k entries by at most r has at most k r in L1."""
    table = exact(name)
    for norm in NORMS:
        lower, upper = table.lower[norm], table.upper[norm]
        assert (lower > 0).all() and (lower <= upper + 1e-9).all() and (upper - lower <= 1e-4).all()
    assert (np.asarray(table.model(table.images)).argmax(1) == table.labels).all()
    assert (table.lower["l1"] >= table.lower["linf"] - 1e-6).all()
    assert (table.lower["l1"] <= table.upper["l0"] + 1e-6).all()
    assert (table.lower["l1"] <= 64 * table.upper["linf"] + 1e-6).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_success_is_closer_than_the_solver_proves(attack):
    table = exact("deep").first(12)
    x_adv, success = run(small(attack), table)
    for norm, wrong in violations(table, x_adv, success).items():
        assert not wrong.any(), f"{attack} in {norm}"


def test_a_success_that_is_too_close_is_seen():
    """Planted: half of the way to an adversarial image; another network's images and distances."""
    table = exact("plain")
    x_adv, success = run(CLOSE["fab linf"][0], table)
    assert success.all() and not violations(table, x_adv, success)["linf"].any()
    halfway = table.images + (x_adv - table.images) / 2
    assert violations(table, halfway, success)["linf"].all()
    other = exact("robust")
    assert violations(other, x_adv[: len(other.images)], success)["linf"].mean() > 0.5


@pytest.mark.parametrize("name", CLOSE)
def test_how_close_each_comes(name):
    attack, norm, median, tenth = CLOSE[name]
    for network in NETWORKS:
        table = exact(network)
        x_adv, success = run(attack, table)
        assert success.all(), network
        assert not any(wrong.any() for wrong in violations(table, x_adv, success).values())
        ratio = distances(table.images, x_adv)[norm] / table.upper[norm]
        found = float(np.median(ratio)), float(np.quantile(ratio, 0.9))
        assert found[0] <= median and found[1] <= tenth, (network, found)


@pytest.mark.parametrize("network", NETWORKS)
def test_within_a_radius_exactly_the_provable_images_fall(network):
    """At the median of the exact distances; none that is proven robust may fall."""
    table = exact(network)
    eps = float(np.median(table.upper["linf"]))
    clear = np.abs(table.upper["linf"] - eps) > 1e-4
    breakable = table.upper["linf"] < eps
    for attack, missed in (
        (AutoAttack(eps=eps, version="fast", queries=200), 0),
        (PGD(eps=eps, steps=40), 2),
    ):
        fell = run(attack, table)[1]
        assert not (fell & ~breakable & clear).any()
        assert (breakable & ~fell & clear).sum() <= missed

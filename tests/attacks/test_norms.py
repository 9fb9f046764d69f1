"""A norm by its name or its number: one function, one message, the same attack."""

import math
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax import attacks
from deepsec_jax.attacks.balls import BALLS
from deepsec_jax.attacks.geometry import find_norm

SAME = {
    "l0": [0, 0.0, "L0", "l_0"],
    "l1": [1, 1.0, np.int64(1), "L1", "l_1"],
    "l2": [2, 2.0, np.float32(2), "L2", "l_2"],
    "linf": [math.inf, np.inf, jnp.inf, np.float32("inf"), "Linf", "LINF", "inf", "l_inf"],
}
OF = {
    attacks.APGDL1: ("l1",),
    attacks.AutoAttack: ("linf", "l2", "l1"),
    attacks.FAB: ("l1", "l2", "linf"),
    attacks.FMN: BALLS,
}
WITH_NORM = [
    attack
    for attack in [*attacks.ATTACKS.values(), attacks.AutoAttack]
    if "norm" in {field.name for field in fields(attack)}
]


@pytest.mark.parametrize("name", BALLS)
def test_names_and_numbers(name):
    assert find_norm(name, BALLS) == name
    assert [find_norm(each, BALLS) for each in SAME[name]] == [name] * len(SAME[name])


@pytest.mark.parametrize("norm", [3, 0.5, -1, -math.inf, math.nan, True, None, "l3", "", "2", [2], ("l2",)])
def test_what_is_no_norm(norm):
    with pytest.raises(ValueError, match="got ") as refused:
        find_norm(norm, BALLS)
    assert str(refused.value).startswith("must be one of l0, l1, l2, linf (or 0, 1, 2, inf), got ")


def test_most_attacks_have_a_norm():
    assert len(WITH_NORM) >= 11


def accepts(attack, norm) -> bool:
    """Whether an attack can be built with a norm."""
    try:
        attack(norm=norm)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("attack", WITH_NORM, ids=lambda attack: attack.__name__)
def test_every_attack_takes_every_spelling_of_its_norms(attack):
    norms = [name for name in BALLS if accepts(attack, name)]
    assert attack().norm in norms
    for name in norms:
        for each in SAME[name]:
            ours, theirs = attack(norm=name), attack(norm=each)
            assert theirs == ours and theirs.norm == name and repr(theirs) == repr(ours)
            # the same static field, and so the same compiled program
            assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for name in set(SAME) - set(norms):
        with pytest.raises(ValueError, match=rf"^{attack.__name__}\.norm must be one of ") as refused:
            attack(norm=SAME[name][0])
        said = str(refused.value).partition("one of ")[2].partition(" (or ")[0]
        assert sorted(said.split(", ")) == norms


def test_wherever_a_norm_goes():
    pgd = attacks.PGD(norm="l2")
    assert attacks.preset("pgd", "mnist", norm=2).norm == "l2"
    assert pgd.replace(norm=jnp.inf) == attacks.PGD()
    assert attacks.parse("PGD(norm=2)") == pgd == attacks.parse(repr(pgd))
    assert attacks.Within(pgd, 1.0, norm=0).norm == "l0"

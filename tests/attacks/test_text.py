"""An attack prints short and reads back."""

import jax.numpy as jnp
import numpy as np
import pytest

from deepsec_jax.attacks import (
    ATTACKS,
    FGSM,
    PGD,
    ROWS,
    Cascade,
    Perturbation,
    Restarts,
    SmallestEps,
    losses,
    parse,
    parts,
    preset,
)
from deepsec_jax.catalog import UnknownName

EXAMPLES = [
    *(attack() for attack in ATTACKS.values()),
    *(preset(name, dataset) for dataset, rows in ROWS.items() for name in rows),
    *(preset(name, "cifar10", "strong") for name in ATTACKS),
    PGD(eps=8 / 255, loss=losses.dlr, start=parts.at_input, rule=parts.Cosine(40.0, parts.Momentum(0.75))),
    Cascade((FGSM(), Restarts(PGD(norm="l2"), n=3))),
    SmallestEps(FGSM(), search_steps=4),
]


@pytest.mark.parametrize("attack", EXAMPLES, ids=repr)
def test_what_is_printed_reads_back(attack):
    assert parse(repr(attack)) == attack


def test_only_what_differs_from_the_default_is_printed():
    assert repr(PGD()) == "PGD()"
    assert repr(PGD(eps=0.1, steps=40, loss=losses.dlr)) == "PGD(eps=0.1, steps=40, loss=dlr)"
    assert repr(FGSM(eps=np.float32(0.5))) == "FGSM(eps=0.5)"
    assert repr(FGSM(eps=jnp.ones(3))) == "FGSM(eps=float32[3])"
    assert "float32[4, 4, 1]" in repr(Perturbation(jnp.zeros((4, 4, 1)), jnp.zeros(2)))


@pytest.mark.parametrize(
    "text", ["__import__('os')", "PGD(eps=open('x'))", "PGD.eps", "[PGD()]", "1", "PGD(**{})", "("]
)
def test_other_text_is_refused_and_not_executed(text):
    with pytest.raises((ValueError, UnknownName)):
        parse(text)


def test_a_misspelt_name_comes_with_near_ones():
    with pytest.raises(UnknownName, match="PGD"):
        parse("PDG()")

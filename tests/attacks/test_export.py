"""Attacks beyond the paper's lower for accelerators, and keep no array that grows with their steps.

Both are seen in the program before it is compiled, so no accelerator is needed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from conftest import make_images, make_linear
from jax import lax
from jax.extend.core import jaxprs_in_params

from attacks.small import small
from deepsec_jax.attacks import (
    APGD,
    PGD,
    AutoAttack,
    ManyRestarts,
    SmallestEps,
    compaction,
    gradient,
    rewriting,
)
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.pytree import Struct, static

TABLE = (
    "apgd", "apgdl1", "fab", "fmn", "ddn", "sigmazero", "pdpgd", "superdeepfool", "basinhopping", "square",
    "rays", "cgba", "vmifgsm", "simifgsm",
)  # fmt: skip
MADE = {
    **{name: small(name) for name in TABLE},
    **{
        f"autoattack {version}": AutoAttack(eps=0.1, steps=4, queries=20, version=version)
        for version in ("standard", "plus", "rand", "fast")
    },
    "many restarts": ManyRestarts(PGD(eps=0.1, steps=2), n=3),
    "smallest eps": SmallestEps(APGD(eps=0.1, steps=2), search_steps=2),
}
LONGER = ("steps", "queries", "hops", "n", "search_steps", "neighbours")
SEVERAL_PHASES = ("pdpgd", "cgba")
"""Lowered at a size where finished rows are set aside; the others with two rows, which is quick."""


@pytest.fixture
def for_accelerators(monkeypatch):
    """Trace what accelerators run; on a CPU the loops and the gradients are others."""
    for module in (compaction, gradient, rewriting):
        monkeypatch.setattr(module, "on_cpu", lambda: False)


def program(attack, rows):
    """Return the program, with every number of the attack and of the model as an argument."""

    def run(attack, model, x, labels, seed):
        return attack(model, x, labels, key=jax.random.key(seed))

    given = make_linear(), make_images(rows=rows), jnp.zeros(rows, jnp.int32)
    return jax.jit(run).trace(attack, *given, 0)


def largest(program: Any) -> int:
    """Return the number of entries of the largest array in the program."""
    found = 0
    for equation in program.eqns:
        sizes = [getattr(variable.aval, "size", 0) for variable in equation.outvars]
        found = max([found, *sizes, *(largest(inner) for inner in jaxprs_in_params(equation.params))])
    return found


@pytest.mark.parametrize("name", list(MADE))
def test_lowers_for_cuda_and_tpu(name, for_accelerators):
    traced = program(MADE[name], 20 if name in SEVERAL_PHASES else 2)
    assert "func.func public @main" in traced.lower(lowering_platforms=("cuda", "tpu")).as_text()


class Hoarder(Struct):
    """Planted: returns the last iterate and stacks all."""

    steps: int = static(4)
    targets = label_targets

    @attack_call
    def __call__(self, model, x, labels, keys):
        return lax.scan(lambda now, _: (0.9 * now, now), x, None, length=self.steps)[1][-1]


@pytest.mark.parametrize("name", [*MADE, "planted"])
def test_memory_does_not_grow_with_steps(name, for_accelerators):
    attack = MADE.get(name, Hoarder())
    more = {
        field: 40 * getattr(attack, field)
        for field in LONGER
        if isinstance(getattr(attack, field, None), int)
    }
    assert more, "nothing to repeat"
    sizes = [largest(program(each, 8).jaxpr) for each in (attack, attack.replace(**more))]
    assert (sizes[1] > sizes[0]) == (name == "planted"), sizes

"""Attacks beyond the paper's lower for accelerators: a program that only a CPU can run is seen here."""

import jax
import jax.numpy as jnp
import pytest
from conftest import make_images, make_linear

from attacks.small import small

SHORT = ("pdpgd", "superdeepfool", "cgba")
LONG = ("apgd", "apgdl1", "fab", "fmn", "ddn", "sigmazero", "square", "rays")


@pytest.mark.parametrize("name", [*SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_lowers_for_cuda_and_tpu(name):
    attack, model, x = small(name), make_linear(), make_images(rows=20)

    def run(attack, model, x, labels, seed):
        return attack(model, x, labels, key=jax.random.key(seed))

    program = jax.jit(run).trace(attack, model, x, jnp.zeros(20, jnp.int32), 0)
    lowered = program.lower(lowering_platforms=("cuda", "tpu"))
    assert "func.func public @main" in lowered.as_text()

"""Data-parallel training over two processes: the weights of one, and one folder written by both."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from children import free_address, run_together
from flax import nnx

from deepsec_jax import data, training
from deepsec_jax.defenses import PAT

TESTS = Path(__file__).parent.parent


def train(folder):
    """Two epochs with and without adversarial training."""
    recipe = replace(training.recipe("digits-small"), epochs=2, batch_size=300)
    digits = data.load("digits")
    training.train(recipe, digits, folder / "plain")
    training.train(
        recipe, digits, folder / "pat", objective=PAT(eps=0.1, step_size=0.05, steps=2).objective()
    )


def together(folder, address, number):
    """One of two processes; without a number the only one."""
    if number:
        jax.distributed.initialize(address, num_processes=2, process_id=int(number))
        assert jax.device_count() == 2 and jax.local_device_count() == 1
    train(Path(folder))
    print("fine")


def weights(folder):
    model = training.load_network(folder).model
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


@pytest.mark.long
def test_two_processes_train_the_weights_of_one(tmp_path):
    address = free_address()
    program = "import sys; from training.test_processes import together; together(*sys.argv[1:])"
    path = os.pathsep.join((str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    said = run_together([
        ([sys.executable, "-c", program, str(tmp_path / ("two" if number else "one")), address, number], env)
        for number in ("0", "1", "")
    ])  # fmt: skip
    assert [out.strip().splitlines()[-1:] for out in said] == [["fine"]] * 3
    for name in ("plain", "pat"):
        for one, two in zip(weights(tmp_path / "one" / name), weights(tmp_path / "two" / name), strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-6)
        assert [each.name for each in (tmp_path / "two").iterdir() if each.name.startswith(".")] == []
    plain, pat = (weights(tmp_path / "two" / name)[0] for name in ("plain", "pat"))
    assert np.abs(plain - pat).max() > 1e-3  # planted: another training

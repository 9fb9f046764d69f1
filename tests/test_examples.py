"""Every example runs from a reader's shell, in a process of its own, and prints something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((CHECKOUT / "examples").glob("[0-9]*.py"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where a worker's first example puts the model that its others load."""
    return tmp_path_factory.mktemp("examples")


def test_there_are_examples():
    assert len(EXAMPLES) >= 7


LONG = ("02_sweep_eps", "03_adversarial_training", "05_linen_or_plain_jax_model", "07_many_devices")
"""20 s each; README has a sweep of eps, too, which tests/test_docs.py runs."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.long) if path.stem in LONG else path for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_example_runs(path, folder):
    environment = {
        **os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error", "JAX_PLATFORMS": "cpu"
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, str(path), str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "%" in run.stdout  # each prints a success rate or an accuracy

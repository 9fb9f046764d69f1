"""``deepsec attack --distributed``: two processes write the run directory that one writes."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from children import free_address, run_together
from cli.subjects import make_npz

from deepsec_jax import attacks
from deepsec_jax.cli.main import main
from deepsec_jax.runs.store import read_cells
from deepsec_jax.studies.column_versions import column_versions

TESTS = Path(__file__).parent.parent
MODEL = "from cli.subjects import Models\n\n\ndef linear():\n    return Models.linear()\n"


def command(folder, name):
    data, run_dir = str(folder / "own.npz"), str(folder / name)
    return [
        sys.executable, "-m", "deepsec_jax.cli", "attack", "the_model:linear", "--data", data,
        "--attacks", "pgd", "deepfool", "--n", "9", "--export", "npz", "--run-dir", run_dir,
    ]  # fmt: skip


@pytest.mark.long
def test_two_processes_attack_as_one(tmp_path):
    make_npz(tmp_path / "own.npz")
    (tmp_path / "the_model.py").write_text(MODEL)
    address = free_address()
    paths = (str(tmp_path), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", ""))
    plain = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    both = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    started = [(command(tmp_path, "one"), {})] + [
        ([*command(tmp_path, "two"), "--distributed"], {**both, "JAX_PROCESS_ID": number})
        for number in ("0", "1")
    ]
    said = run_together([(line, plain | more) for line, more in started])
    assert "attacks.html" in said[1] and "attacks.html" not in said[2], "only the first one reports"
    one, two = (read_cells(tmp_path / name, column_versions()) for name in ("one", "two"))
    assert [cell.name for cell in one] == [cell.name for cell in two] and len(one) == 2
    for mine, theirs in zip(one, two, strict=True):
        for name, values in mine.columns.items():
            if not name.startswith(("seconds", "cc")):  # times
                np.testing.assert_allclose(theirs.columns[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
        for which in ("one", "two"):
            path = tmp_path / which / "aes" / f"{mine.name}.npz"
            assert path.exists()
        a, b = (attacks.load(tmp_path / which / "aes" / f"{mine.name}.npz") for which in ("one", "two"))
        np.testing.assert_allclose(a.x_adv, b.x_adv, rtol=1e-6, atol=1e-6)
        assert np.abs(a.x_adv - a.x).max() > 1e-3  # planted: not the clean images


def test_one_process_alone_is_told_so(tmp_path, capsys):
    make_npz(tmp_path / "own.npz")
    assert main(["attack", "nothing:here", "--distributed", "--dry-run"]) == 2
    assert "--distributed" in capsys.readouterr().err

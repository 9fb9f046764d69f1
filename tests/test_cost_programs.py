"""The benchmarks of programs run at small sizes, and see what is planted."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import make_linear

from benchmarks.cost import growth, large_model, programs
from deepsec_jax.attacks import PGD, compaction
from deepsec_jax.attacks.call import label_targets
from deepsec_jax.pytree import Struct


def test_programs_of_an_accelerator_are_traced_for_one_and_only_inside_the_block():
    x, labels, _ = programs.batch(4, 1, 3, 64)
    own = compaction.on_cpu
    made = {
        kind: programs.program(PGD(steps=3), make_linear(), x, labels, kind=kind) for kind in programs.KINDS
    }
    assert compaction.on_cpu is own
    for figures in made.values():
        assert figures["traces"] >= 1 and figures["temporary_mb"] > 0 and figures["gflop"] > 0
    with programs.programs_of("accelerator"):
        assert not compaction.on_cpu()
    with pytest.raises(RuntimeError), programs.programs_of("accelerator"):
        raise RuntimeError
    assert compaction.on_cpu is own


@pytest.mark.long
def test_large_model_resumes(tmp_path, monkeypatch, capsys):
    words = ["--attacks", "fgsm", "llc", "--programs", "accelerator", "--side", "32", "--classes", "5"]
    monkeypatch.setattr(sys, "argv", ["large_model", *words, "--width", "1", "--out", str(tmp_path)])
    large_model.main()
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())["programs"]["accelerator"]
    assert set(found) == {"gradient", "fgsm", "llc"} and found["llc"]["traces"] > found["gradient"]["traces"]
    monkeypatch.setattr(large_model, "_figures", lambda *_: pytest.fail("measured again"))
    large_model.main()
    assert "over gradient" in capsys.readouterr().out


class Quadratic(Struct):
    """Planted: compares every row with every other, and keeps all classes of all rows."""

    targets = label_targets
    targeted = False

    def __call__(self, model, x, labels, *, key=None):
        pairs = jnp.sum(jnp.abs(x[:, None] - x[None]), axis=(1, 2, 3, 4), keepdims=True)[:, 0]
        return x + 0 * pairs


def test_exponents_and_a_planted_quadratic_cost(tmp_path, monkeypatch):
    monkeypatch.setitem(growth.ATTACKS, "planted", lambda steps: Quadratic())
    words = ["--attacks", "pgd", "planted", "--axes", "batch", "--sizes", "16", "64", "--runs", "0"]
    monkeypatch.setattr(sys, "argv", ["growth", *words, "--out", str(tmp_path)])
    growth.main()
    found = json.loads((tmp_path / "growth.json").read_text())["attacks"]
    slopes = {name: axes["batch"]["exponents"]["operations"] for name, axes in found.items()}
    assert slopes["gradient"] == pytest.approx(1, abs=0.1) and slopes["pgd"] == pytest.approx(1, abs=0.1)
    assert slopes["planted"] > 1.8


def test_processor_time_is_that_of_runs_after_the_first():
    calls = []
    assert growth.least_seconds(lambda: calls.append(jax.device_count()), 2) >= 0
    assert len(calls) == 3
    assert growth.least_seconds(lambda: calls.append(0), 0) != growth.least_seconds(lambda: None, 0)  # NaN

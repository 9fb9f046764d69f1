"""What one look at the model has found: printed before the first cell, kept with the cells and reported."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import make_linear
from subjects import MODULE, Models, make_npz

from deepsec_jax.attacks.cost import uses_gradients
from deepsec_jax.cli.main import main
from deepsec_jax.pytree import Struct
from deepsec_jax.runs.store import read_cells
from deepsec_jax.studies import run as run_module

SENTENCE = "The outputs are probabilities: each row lies in [0, 1] and sums to 1."


class Soft(Struct):
    """A linear model that returns probabilities."""

    base: object

    def __call__(self, x):
        return jax.nn.softmax(self.base(x))


class Faulty(Models):
    @staticmethod
    def soft():
        return Soft(make_linear((4, 4, 1)))


@pytest.fixture
def deepsec(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, MODULE, Faulty)
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path / "own.npz")

    def run(verb, name="soft", *options):
        words = ["--model", f"{MODULE}:{name}", "--data", "own.npz", "--n", "10", "--run-dir", "run"]
        return main([*verb.split(), *words, *options])

    return run


@pytest.mark.parametrize("verb", ["attack", "evaluate attacks"])
def test_a_dry_run_says_it_too(deepsec, capsys, verb):
    deepsec(verb, "soft", "--attacks", "fgsm", "--dry-run")
    said = capsys.readouterr().out
    assert said.count(f"warning: {MODULE}:soft: {SENTENCE}") == 1
    assert said.index(SENTENCE) < said.index("nothing is written")
    assert not Path("run").exists()
    deepsec(verb, "linear", "--attacks", "fgsm", "--dry-run")
    assert "warning" not in capsys.readouterr().out  # an honest model


def test_attack_prints_it_first_and_keeps_it(deepsec, capsys, monkeypatch):
    deepsec("attack", "soft", "--attacks", "fgsm")
    said = capsys.readouterr().out
    assert said.index(SENTENCE) < said.index("1 of 1 attacks finished")
    (table,) = json.loads(Path("run/report/attacks.json").read_text())["sections"]
    assert any(f"{MODULE}:soft: {SENTENCE}" in text for text in table["warnings"])
    page = Path("run/report/attacks.html")
    assert SENTENCE in page.read_text()
    monkeypatch.setattr(run_module, "check_model_outputs", lambda *_, **__: pytest.fail("looked again"))
    page.unlink()
    deepsec("attack", "soft", "--attacks", "fgsm")  # it goes on from what is kept
    assert SENTENCE in page.read_text() and SENTENCE in capsys.readouterr().out


def test_cells_keep_it_and_reports_tell_it_once(deepsec, capsys):
    deepsec("evaluate attacks", "soft", "--attacks", "fgsm", "llc", "--metrics", "mr")
    said = capsys.readouterr().out
    assert said.index(f"warning: {MODULE}:soft: {SENTENCE}") < said.index("2 of 2 attacks finished")
    for cell in read_cells("run"):
        assert [SENTENCE in text for text in cell.environment["findings"]] == [True]
    assert main(["report", "run"]) == 0
    page = Path("run/report/attacks.html").read_text()
    assert page.count(SENTENCE) == 1
    capsys.readouterr()
    deepsec("evaluate attacks", "soft", "--attacks", "fgsm", "llc", "--metrics", "mr")
    said = capsys.readouterr().out  # nothing to compute: the look is not repeated, the report is
    assert said.count(SENTENCE) == 1


def test_images_of_a_wrong_range(deepsec, capsys):
    """Integers of 0 and 1 are divided by 255, as any integers are."""
    with np.load("own.npz") as archive:
        arrays = dict(archive)
    for name in ("x_train", "x_test"):
        arrays[name] = (arrays[name] > 0.5).astype(np.uint8)
    np.savez("own.npz", **arrays)
    deepsec("evaluate attacks", "linear", "--attacks", "fgsm", "--dry-run")
    assert "lie between 0 and 0.00392" in capsys.readouterr().out


def test_a_search_without_gradients_needs_none():
    from deepsec_jax.attacks import PGD, Square

    assert list(map(uses_gradients, (PGD(), Square(), Square(guided=True)))) == [True, False, True]

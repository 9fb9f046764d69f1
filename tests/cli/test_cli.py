"""The command line: verbs, one-line errors, resuming, and nothing overwritten."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_linear
from subjects import MODULE, SHAPE, Models, make_npz

from deepsec_jax import attacks, models
from deepsec_jax.cli.main import VERBS, main


@pytest.fixture
def npz(tmp_path):
    return make_npz(tmp_path / "made.npz")


@pytest.fixture
def attack(monkeypatch, npz, tmp_path):
    """Run ``deepsec attack`` on the linear model in a folder of its own."""
    monkeypatch.setitem(sys.modules, MODULE, Models)
    monkeypatch.chdir(tmp_path)

    def run(*options, model="linear", data=npz):
        chosen = [] if data is None else ["--data", str(data)]
        return main(["attack", f"{MODULE}:{model}", *chosen, "--run-dir", "run", *options])

    return run


def _one_line(capsys) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("evaluate, in gradients: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), error
    return lines[0]


def test_attack_writes_a_table_a_page_and_the_images(attack, tmp_path, npz, capsys):
    assert attack("--attacks", "fgsm", "tmifgsm", "--n", "12", "--export", "npz") == 0
    said = capsys.readouterr().out
    assert "report run/report/attacks.html" in said and said.count("images run/aes/") == 2
    (table,) = json.loads((tmp_path / "run/report/attacks.json").read_text())["sections"]
    assert [row["attack"] for row in table["rows"]] == ["fgsm", "tmifgsm"]
    assert all(row["n"] == 12 for row in table["rows"])
    shown = set(table["rows"][0]["columns"])
    assert {"mr", "mr_8bit", "l2", "linf", "cc"} <= shown and "ric" not in shown
    (path,) = (tmp_path / "run/aes").glob("tmifgsm-*.npz")
    stored = attacks.load(path)
    assert stored.made_by() == attacks.preset("tmifgsm", "own", "paper", channels=1)
    rows = stored.notes["rows"]
    assert np.array_equal(stored.x, np.load(npz)["x_test"][rows])
    assert np.array_equal(stored.labels, np.load(npz)["y_test"][rows])
    assert np.abs(stored.x_adv - stored.x).max() <= 0.3 + 1e-6
    found = np.asarray(make_linear(SHAPE)(jnp.asarray(stored.x_adv))).argmax(1)
    assert np.array_equal(stored.notes["success"], found == stored.targets)
    assert "n = 12" in (tmp_path / "run/report/attacks.html").read_text()


def test_attack_goes_on_where_it_was_interrupted(attack, tmp_path, monkeypatch, capsys):
    from deepsec_jax.evaluation import attack_jobs

    names = ("--attacks", "fgsm", "bim", "--n", "10", "--export", "npz")
    attacked, ran = attack_jobs.attacked, []

    def watched(attack, *arguments, **options):
        ran.append(type(attack).__name__)
        if ran.count("BIM") == 1 and ran[-1] == "BIM":
            raise KeyboardInterrupt
        return attacked(attack, *arguments, **options)

    monkeypatch.setattr(attack_jobs, "attacked", watched)
    assert attack(*names) == 130
    assert "to resume" in capsys.readouterr().err and not (tmp_path / "run" / "report").exists()
    assert attack(*names) == 0
    assert ran == ["FGSM", "BIM", "BIM"]
    before = contents(tmp_path / "run")
    assert attack(*names) == 0
    assert ran == ["FGSM", "BIM", "BIM"] and before == contents(tmp_path / "run")


def contents(folder):
    """File -> content, but for locks and the report, which is made anew."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name not in ("locks", "report")
    }


def test_attack_overwrites_nothing(attack, tmp_path, capsys):
    assert attack("--attacks", "fgsm", "--n", "10") == 0
    before = contents(tmp_path / "run" / "cells")
    assert attack("--attacks", "fgsm", "--n", "11") == 0  # a cell of its own
    after = contents(tmp_path / "run" / "cells")
    assert before.items() <= after.items() and len(after) == 2 * len(before)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    capsys.readouterr()
    assert attack("--attacks", "fgsm", "--run-dir", "mine") == 2
    assert "holds other files" in _one_line(capsys)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("linear", ["--n", "0"], "--n must be at least 1, got 0"),
        ("linear", ["--batch-size", "0"], "--batch-size must be at least 1"),
        ("linear", ["--seed", "-1"], "--seed must be at least 0"),
        ("linear", ["--n", "101"], "only 100 of 100 test images are classified correctly"),
        ("linear", ["--attacks", "pdg"], "unknown attack 'pdg'. Did you mean pdpgd or pgd"),
        ("linear", ["--attacks", "pgd@7"], "unknown paper preset"),
        ("linear", ["--attacks", "pgd", "pgd"], "more than once"),
        ("plain", [], "Partial(apply, params)"),
        ("training", [], "model.eval()"),
        ("sick", [], "NaN or infinite weights"),
        ("missing", [], "has no function 'missing'"),
        ("larger", [], "the model on images 4x4x1"),
    ],
)
def test_attack_refuses_in_one_line_before_anything_is_written(
    attack, tmp_path, capsys, model, options, words
):
    assert attack(*options, model=model) == 2
    assert words in _one_line(capsys)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").rglob("*.*"))


def test_attack_checks_the_data(attack, tmp_path, npz, capsys):
    arrays = dict(np.load(npz))
    for name, change, words in (
        ("nan", {"x_test": arrays["x_test"] * np.nan}, "ranges over [nan, nan]"),
        ("range", {"x_test": arrays["x_test"] * 255}, "bring floats to [0, 1]"),
        ("labels", {"y_test": arrays["y_test"] + 1}, "labels range over 1 .. 3"),
    ):
        np.savez(tmp_path / f"{name}.npz", **{**arrays, **change})
        assert attack(data=tmp_path / f"{name}.npz") == 2
        assert words in _one_line(capsys)
    assert attack(data=None) == 2
    assert "--data" in _one_line(capsys)
    assert main(["attack", "no/such/folder"]) == 2
    assert "no model in" in _one_line(capsys)
    assert main(["attack", "no.such.module:model", "--data", "digits"]) == 2
    assert "cannot import no.such.module" in _one_line(capsys)


def test_a_damaged_result_is_named(attack, tmp_path, capsys):
    assert attack("--attacks", "fgsm", "--n", "10") == 0
    (path,) = (tmp_path / "run" / "cells").glob("*/arrays.npz")
    path.write_bytes(b"half")
    capsys.readouterr()
    assert attack("--attacks", "fgsm", "--n", "10") == 2
    assert "arrays.npz is cut off" in _one_line(capsys)


def test_attack_dry_run_writes_nothing(attack, tmp_path, capsys):
    names = ("--attacks", "fgsm", "bim", "--n", "10")
    assert attack(*names, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "missing   fgsm-" in said and "missing   bim-" in said and "measured now" in said
    assert not (tmp_path / "run").exists()
    assert attack(*names) == 0
    capsys.readouterr()
    assert attack(*names, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "present   bim-" in said and "nothing to compute" in said


def test_attack_takes_what_fits_as_batch_size(attack, tmp_path):
    assert attack("--attacks", "fgsm", "--n", "10", "--batch-size", "auto") == 0
    assert (tmp_path / "run/report/attacks.html").is_file()


def test_train_dry_run_says_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits-small", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "runs/models/digits-small: 30 of 30 epochs of 1212 images are left" in said
    assert "measured now" in said and list(tmp_path.iterdir()) == []
    (tmp_path / "runs/models/digits-small.partial/epochs/11").mkdir(parents=True)
    assert main(["train", "digits-small", "--dry-run"]) == 0
    assert "18 of 30 epochs" in capsys.readouterr().out


def test_train_knows_its_recipes(capsys):
    assert main(["train", "digits-smal"]) == 2
    assert "Did you mean digits-small" in _one_line(capsys)


def test_list_shows_every_name(capsys):
    from deepsec_jax.training import RECIPES

    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*attacks.ATTACKS, *models.MODELS, *RECIPES, "digits"))
    assert main(["list", "models"]) == 0
    assert "digits-small" not in capsys.readouterr().out


def test_list_pretrained_says_what_was_measured_and_how_to_measure_it_again(tmp_path, monkeypatch, capsys):
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    recipe = {"recipe": {"name": "r", "model": "cnn", "data": "d"}, "figures": {}, "digest": "new"}
    card = {
        "command": "deepsec robustness pretrained/mine --card", "digest": "new", "norm": "linf", "eps": 0.3,
        "n": 7, "robust": share, "gates": ["few images: n = 7 is too few. Next: more."],
    }  # fmt: skip
    for name, digest in (("mine", "new"), ("stale", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(json.dumps(recipe))
        (tmp_path / name / "card.json").write_text(json.dumps(card | {"digest": digest}))
    monkeypatch.setenv("DEEPSEC_PRETRAINED", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "pretrained"]) == 0
    said = capsys.readouterr().out
    assert "50.0 % (40.0 to 60.0) at L\N{INFINITY} 0.3, n = 7" in said and "closed: few images" in said
    assert "measured on other weights" in said and card["command"] in said and "deepsec train r" in said


def test_prepare_says_what_is_missing(monkeypatch, capsys):
    assert main(["prepare", "digits"]) == 0
    assert "nothing to prepare" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert main(["prepare", "mnist"]) == 2
    assert 'pip install "deepsec_jax[prepare]"' in _one_line(capsys)


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("deepsec_jax.training.recipe", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "digits-small"])


def test_help_names_every_verb_without_loading_jax():
    code = (
        "import sys; from deepsec_jax.cli.main import main; assert 'jax' not in sys.modules; main(['--help'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(verb in result.stdout for verb in VERBS)


def test_module_and_command_are_one(capsys):
    result = subprocess.run(
        [sys.executable, "-m", "deepsec_jax.cli", "attack"], capture_output=True, text=True
    )
    assert result.returncode == 2 and "MODEL" in result.stdout + result.stderr

"""A defended model's folder on the command line: it is attacked as what it is, or refused with the remedy."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from test_evaluate_defenses import write_card, write_model

from deepsec_jax import data, defenses, models, training
from deepsec_jax.cli.main import main
from deepsec_jax.runs.store import read_cells
from deepsec_jax.training.checkpoints import save_model

ATTACK = ("--n", "8", "--attacks", "fgsm")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A base, RC and FS around it, a network that NAT has trained, and one that RC's votes stand around."""
    folder = tmp_path_factory.mktemp("template")
    digits = data.load("digits")
    for name, seed in (("base", 0), ("nat", 1)):
        write_model(folder / name, seed)
    write_card(folder / "nat")
    base = defenses.base_of(training.load_model(folder / "base"), digits)
    for name, fitted in (
        ("rc", defenses.RC(radius=0.2, points=10)), ("fs", defenses.FS(images=100, fpr=0.1)),
    ):  # fmt: skip
        card = {"name": name, "preset": "small", "base": "base"}
        defenses.fit_into(folder / name, fitted, base, digits, key=jax.random.key(0), card=card)
    return folder


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def test_evaluate_attacks_takes_the_defended_model(here, capsys):
    words = ("evaluate", "attacks", "rc", *ATTACK, "--metrics", "mr", "--run-dir", "run")
    assert main(list(words)) == 0
    said = capsys.readouterr()
    (cell,) = read_cells("run")
    assert cell.config["model"]["defense"]["class"] == "RC" and cell.config["model"]["name"] == "rc"
    found = defenses.load("rc")
    assert cell.config["model"]["test_accuracy"] == found.test_accuracy
    # Votes have no gradient: FGSM moves nothing.  On the bare network it moves every pixel that it may.
    assert np.array_equal(cell.arrays["x_adv"], cell.arrays["x"]) and not cell.arrays["success"].any()
    for text in (said.err, " ".join(said.out.split())):
        assert "rc is defended by RC, which has no gradient" in text
        assert "deepsec evaluate defenses base --defenses rc" in text
    assert main(["report", "run"]) == 0
    page = Path("run/report/attacks.html").read_text()
    assert "RC of base, preset small" in page and "which has no gradient" in page

    assert main(["evaluate", "attacks", "base", *words[3:]]) == 0  # a cell of its own
    cells = {cell.config["model"]["name"]: cell for cell in read_cells("run")}
    assert set(cells) == {"rc", "base"} and "defense" not in cells["base"].config["model"]
    assert not np.array_equal(cells["base"].arrays["x_adv"], cells["base"].arrays["x"])


def test_attack_takes_the_defended_model(here, capsys):
    assert main(["attack", "rc", *ATTACK, "--run-dir", "run"]) == 0
    assert "which has no gradient" in capsys.readouterr().err
    (table,) = json.loads(Path("run/report/attacks.json").read_text())["sections"]
    assert table["rows"][0]["hits"] == 0 and "which has no gradient" in table["warnings"][0]
    page = Path("run/report/attacks.html").read_text()
    assert "RC of base, preset small" in page and "which has no gradient" in page


def test_a_detectors_folder_is_the_guarded_model(here, capsys):
    assert main(["evaluate", "attacks", "fs", *ATTACK, "--metrics", "mr", "--run-dir", "run"]) == 0
    (cell,) = read_cells("run")
    assert cell.config["model"]["defense"]["class"] == "FS"
    assert "which hides or changes its gradient" in capsys.readouterr().err
    found = defenses.load("fs")
    figures = found.saved.figures
    assert found.test_accuracy + figures["test_rejected"] <= 1 and figures["test_rejected"] > 0


def test_a_base_that_is_more_than_its_network_is_refused(here, capsys):
    for words in (
        ["defend", "rt", "rc"], ["evaluate", "defenses", "rc", "--defenses", "nat"],
        ["evaluate", "detectors", "fs", "--detectors", "fs"],
    ):  # fmt: skip
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "which is more than a network: give base's folder" in said and said.count("\n") == 1


def test_what_is_put_around_a_trained_defense_and_what_would_undo_it(here, capsys):
    assert main(["defend", "pat", "nat", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert (
        "nat is a network trained by NAT, and PAT trains it again" in said and "rt, pd, rc, lid, fs" in said
    )
    assert main(["defend", "rc", "nat", "--preset", "small", "--dry-run"]) == 0
    assert "RC of small_cnn on digits trains nothing" in capsys.readouterr().out


def test_a_defense_says_the_accuracy_of_what_it_has_made(here, capsys):
    found, before = defenses.load("fs"), training.load_network("base").figures["test_accuracy"]
    card = {"name": "fs", "preset": "small", "base": "base"}
    path = Path("fs/defense.json")
    preset = defenses.preset("fs", "digits", "small", channels=1)
    path.write_text(
        json.dumps({**card, "class": "FS", "settings": defenses.folders.settings_of(preset)})
    )  # fmt: skip
    assert main(["defend", "fs", "base", "--preset", "small", "--run-dir", "fs"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"test accuracy {100 * found.test_accuracy:.2f} % of n = 450 (" in said and "% rejected)" in said
    assert f"without it {100 * before:.2f} %" in said


def test_a_recipes_name_does_not_grant_the_papers_title(here, capsys):
    model = models.build("small_cnn", (8, 8, 1), 10, seed=0)
    recipe = replace(training.recipe("mnist-paper"), epochs=1, model="small_cnn")
    figures = {"test_accuracy": 0.99, "test_images": 10}
    save_model("model", model, recipe, image_shape=(8, 8, 1), classes=10, figures=figures)
    digits = data.load("digits")
    np.savez(
        "mnist.npz", x_train=digits.train.images, y_train=digits.train.labels, x_test=digits.test.images,
        y_test=digits.test.labels,
    )  # fmt: skip
    words = ["evaluate", "attacks", "model", "--data", "mnist.npz", *ATTACK, "--metrics", "mr"]
    assert main([*words, "--run-dir", "run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Table XIV (MNIST)" not in said and "epochs 1, not 20" in said
    assert "the test images are not the paper's" in said

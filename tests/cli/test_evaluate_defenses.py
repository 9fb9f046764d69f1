"""``deepsec evaluate defenses``: cells, resuming, the report beside attacks, and bad inputs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from deepsec_jax import data, defenses, models, training
from deepsec_jax.cli.main import _parse, main
from deepsec_jax.defenses.folders import CARD, settings_of
from deepsec_jax.evaluation import defense_jobs
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.attacks.options import Options as AttackOptions
from deepsec_jax.studies.defenses.options import Options as DefenseOptions
from deepsec_jax.training.checkpoints import save_model

N = 12
QUICK = ("--n", str(N), "--steps", "3", "--restarts", "1", "--batch-size", "12", "--eps", "0.2")


def write_model(folder: Path, seed: int, name: str = "digits-small", digest: str | None = None) -> None:
    """Write a model folder with random weights, as training would."""
    model = models.build("small_cnn", (8, 8, 1), 10, seed=seed)
    assert isinstance(model, nnx.Module)
    history = [{"epoch": epoch, "loss": 2.0 - epoch, "validation": 0.1 + 0.1 * epoch} for epoch in range(2)]
    figures = {
        "test_accuracy": 0.5, "test_images": 450, "best_epoch": 1, "validation": 0.2, "history": history,
        "trained_on": {"data": digest or data.load("digits").digest(), "objective": "o"},
    }  # fmt: skip
    recipe = replace(training.recipe("digits-small"), name=name)
    save_model(folder, model, recipe, image_shape=(8, 8, 1), classes=10, figures=figures)


def write_card(folder: Path, name: str = "nat", **changes) -> None:
    """Make a model folder one that deepsec defend could have written."""
    defense = defenses.preset(name, "digits", "small")
    card = {
        "name": name, "preset": "small", "base": "base", "class": type(defense).__name__,
        "settings": settings_of(defense), **changes,
    }  # fmt: skip
    (folder / CARD).write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a base, its copy called a defense, one of other weights, and a finished run."""
    folder = tmp_path_factory.mktemp("template")
    write_model(folder / "base", 0)
    write_model(folder / "same", 0, "nat-digits-small")
    write_model(folder / "other", 1, "dd-digits-small")
    write_card(folder / "same")
    write_card(folder / "other", "dd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert evaluate() == 0
    return folder


def evaluate(*options, folders=("same", "other"), model="base", quick=QUICK):
    return main(["evaluate", "defenses", model, "--defenses", *folders, "--run-dir", "run", *quick, *options])


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A copy of the template as the current folder, where nothing may be attacked."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    for name in ("generate", "run_cascade"):
        monkeypatch.setattr(defense_jobs, name, lambda *given, **more: pytest.fail("an attack was run"))
    return folder


def starts():
    return [entry["group"] for entry in Store(Path("run")).read_log() if entry["event"] == "start"]


def test_a_finished_run_is_not_computed_again_and_reported(here, capsys):
    assert starts().count("cell") == 11  # undefended; of each defense utility, three attacks, inputs
    before = starts()
    assert evaluate() == 0 and starts() == before
    said = capsys.readouterr().out
    assert "run: 11 of 11 cells finished; deepsec report run" in said and "Defenses of base, digits" in said
    assert main(["report", "run"]) == 0
    assert "report run/report/defenses.html" in capsys.readouterr().out
    assert not Path("run/report/attacks.html").exists()
    page = Path("run/report/defenses.html").read_text()
    assert "The paper has no table of defenses on digits." in page and "epoch kept" in page


def test_a_copy_of_the_base_is_no_defense(here):
    cells = {
        (cell.config.get("defense", {}).get("name"), cell.config.get("knowledge")): cell
        for cell in read_cells("run")
        if cell.kind != "model_inputs"
    }
    utility = cells["nat", None]
    assert len(utility.arrays["labels"]) == len(data.load("digits").test)
    assert all(not utility.columns[name].any() for name in ("cav", "crr", "csr", "ccv", "cos"))
    replayed, white_box = cells["nat", "replayed"], cells["nat", "white_box"]
    assert np.array_equal(replayed.columns["replayed"], white_box.columns["white_box"])
    assert np.array_equal(white_box.arrays["x_adv"], cells[None, "undefended"].arrays["x_adv"])
    assert white_box.config["defense"]["recipe"]["name"] == "nat-digits-small"
    assert white_box.environment["folder"] == "same" and white_box.environment["training"]["best_epoch"] == 1
    adaptive = cells["dd", "adaptive"]
    assert adaptive.config["weights"].keys() == {"raw", "defended", "surrogate"}
    assert adaptive.config["attack"]["hyperparameters"]["steps"] == 3
    assert (adaptive.config["eps"], adaptive.config["n"], adaptive.config["seed"]) == (0.2, N, 0)


def test_a_dry_run_writes_nothing_and_says_what_is_missing(here, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert evaluate("--dry-run", "--steps", "4") == 0
    said = capsys.readouterr().out
    assert said.count("present ") == 7 and said.count("missing ") == 4
    assert "at most" in said and "measured now" in said
    assert evaluate("--dry-run") == 0
    assert "nothing to compute" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}


def test_clean_images_alone_and_a_part_of_them(here, capsys):
    assert evaluate("--n", "0", "--clean-n", "20", "--seed", "3", "--run-dir", "clean", quick=()) == 0
    cells = list(read_cells("clean"))
    assert [cell.kind for cell in cells] == ["utility"] * 2
    assert all(len(cell.columns["accuracy"]) == 20 for cell in cells)
    assert evaluate("--n", "0", "--dry-run") == 0  # those of all images are there
    assert "nothing to compute" in capsys.readouterr().out
    assert evaluate("--n", "0", "--clean-n", "450", "--dry-run") == 0  # 450 are all
    assert capsys.readouterr().out.count("present ") == 2


def test_attacks_and_defenses_share_a_run(here, capsys):
    options = ["--metrics", "mr", "--n", "3", "--run-dir", "run"]
    assert main(["evaluate", "attacks", "base", *options, "--attacks", "fgsm"]) == 0
    assert main(["evaluate", "attacks", "base", *options, "--attacks", "fgsm", "--dry-run"]) == 0
    assert evaluate() == 0
    capsys.readouterr()
    assert main(["report", "run"]) == 0
    said = capsys.readouterr().out
    assert all(f"report run/report/{kind}.html" in said for kind in ("attacks", "defenses"))


def test_what_fails_is_recorded_and_the_rest_stays(here, monkeypatch, capsys):
    monkeypatch.setattr(defense_jobs, "run_cascade", lambda *given, **more: 1 / 0)
    assert evaluate("--steps", "5") == 1
    captured = capsys.readouterr()
    failed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 4 and "ZeroDivisionError" in failed[0] and "run/failed/nat-" in failed[0]
    assert "7 of 11 cells finished" in captured.out


# --- inputs


def edit_card(folder, **changes):
    return lambda here: write_card(here / folder, **changes)


BAD = {
    "no defense named": ({"folders": ()}, "--defenses names no folder", None),
    "twice": ({"folders": ("same", "./same")}, "more than once: name each once", None),
    "no such folder": ({"folders": ("nowhere",)}, "no defended model in nowhere: give a folder that", None),
    "the base as a defense": ({"folders": ("base",)}, "no defended model in base", None),
    "another base": ({"folders": ("same",)}, "same defends mine, not base: give the model",
                     edit_card("same", base="mine")),
    "no base": ({"folders": ("same",)}, "defense.json lacks base", edit_card("same", base=None)),
    "damaged card": ({"folders": ("same",)}, "defense.json is damaged",
                     lambda here: (here / "same" / CARD).write_text("{")),
    "unknown class": ({"folders": ("same",)}, "defense.json is damaged",
                      edit_card("same", **{"class": "NATT"})),
    "damaged weights": ({"folders": ("same",)}, "weights in",
                        lambda here: [path.write_bytes(b"") for path in (here / "same/model").rglob("d/*")]),
    "other images": ({"folders": ("far",)}, "far was trained on other images than digits has",
                     lambda here: (write_model(here / "far", 2, digest="0"), write_card(here / "far"))),
    "too many images": ({"quick": ("--n", "451")}, "--n must be at most 450, the number of", None),
    "fewer images than none": ({"quick": ("--n=-1",)}, "--n must be at least 0, got -1", None),
    "too many clean images": ({"quick": ("--n", "1", "--clean-n", "451")}, "--clean-n must be at most", None),
    "no clean images": ({"quick": ("--clean-n", "0")}, "--clean-n must be at least 1, got 0", None),
    "no radius": ({"quick": ("--eps", "0")}, "--eps must lie above 0 and be at most 1", None),
    "radius in grey levels": ({"quick": ("--eps", "8")}, "at most 1, the range of a pixel, got 8", None),
    "no steps": ({"quick": ("--steps", "0")}, "--steps must be at least 1, got 0", None),
    "no restarts": ({"quick": ("--restarts", "0")}, "--restarts must be at least 1, got 0", None),
    "queries below 0": ({"quick": ("--queries", "-1")}, "--queries must be at least 0, got -1", None),
    "negative seed": ({"quick": ("--seed=-1",)}, "--seed must be at least 0, got -1", None),
    "no batch": ({"quick": ("--batch-size", "0")}, "--batch-size must be at least 1, got 0", None),
    "no base folder": ({"model": "nowhere"}, "no model in", None),
    "unknown option in spec": ({"quick": ("--spec", "spec.toml")}, "unknown option 'epsilon'. Did you mean",
                               lambda here: (here / "spec.toml").write_text("epsilon = 0.3")),
    "cut off cell": ({}, "arrays.npz is cut off", lambda here: [
        path.write_bytes(path.read_bytes()[:100]) for path in here.glob("run/cells/*adaptive*/arrays.npz")]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_one_line_and_costs_nothing(name, here, capsys):
    options, words, prepare = BAD[name]
    if prepare is not None:
        prepare(here)
    before = starts()
    assert evaluate(**options) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and captured.out == "", captured
    assert words in lines[0] and starts() == before


def test_planted_what_is_not_finished_would_be_attacked(here):
    with pytest.raises(pytest.fail.Exception, match="an attack was run"):
        evaluate("--seed", "1")


# --- the command line


def test_both_kinds_have_their_own_options():
    assert _parse(["evaluate", "attacks", "m"]) == AttackOptions(model="m")
    words = "evaluate defenses m --defenses a b --n 5 --eps 0.1"
    wanted = DefenseOptions(model="m", defenses=("a", "b"), n=5, eps=0.1)
    assert _parse(words.split()) == wanted
    assert _parse("evaluate defenses --model m --defenses a b --n 5 --eps 0.1".split()) == wanted
    assert _parse("evaluate --n 5 attacks m --run-dir defenses".split()).run_dir == Path("defenses")


def test_a_spec_says_what_flags_would(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text('model = "m"\ndefenses = ["a", "b"]\neps = 0.1\nrestarts = 2\n')
    found = _parse(["evaluate", "defenses", "--spec", "spec.toml", "--restarts", "3"])
    assert (found.model, found.defenses, found.eps, found.restarts) == ("m", ("a", "b"), 0.1, 3)


@pytest.mark.parametrize(
    "words", [["attacks", "m", "--defenses", "a"], ["defenses", "m", "--attacks", "pgd"]]
)
def test_options_of_the_other_kind_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        _parse(["evaluate", *words])
    assert "nrecognized" in capsys.readouterr().err


def test_defenses_are_listed(capsys):
    assert main(["list", "defenses"]) == 0
    said = capsys.readouterr().out
    assert (
        all(name in said for name in defenses.DEFENSES)
        and "gradient masking" in said
        and "1706.06083" in said
    )
    assert main(["list", "metrics"]) == 0
    assert "Jensen-Shannon" in " ".join(capsys.readouterr().out.split())

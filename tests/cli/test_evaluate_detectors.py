"""``deepsec evaluate detectors``: cells on a store of attacks, resuming, dry runs, the report, bad inputs."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_evaluate_defenses import write_card, write_model

from deepsec_jax import data, defenses, training
from deepsec_jax.cli.main import _parse, main
from deepsec_jax.defenses.folders import CARD
from deepsec_jax.evaluation import detector_jobs
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.detectors.options import Options as DetectorOptions

N = 12
SWEEP = ("--sweep", "0.1", "0.3")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a base, detectors, a defense, a run with two attacks, and a finished evaluation."""
    folder = tmp_path_factory.mktemp("template")
    digits = data.load("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, seed in (("base", 0), ("nat", 0), ("other", 1)):
            write_model(folder / name, seed)
        write_card(folder / "nat")
        card = {"name": "fs", "preset": "small", "base": "base"}
        for name, model, bits in (("fs", "base", 1), ("fs2", "base", 2), ("far", "other", 1)):
            base = defenses.base_of(training.load_model(folder / model), digits)
            fitted = defenses.FS(bits=bits, images=200, fpr=0.1)
            defenses.fit_into(folder / name, fitted, base, digits, key=jax.random.key(0), card=card)
        assert attack("fgsm", "llc") == 0
        assert evaluate(*SWEEP) == 0
    return folder


def attack(*names, options=()):
    words = ["evaluate", "attacks", "base", "--n", str(N), "--metrics", "mr", "--run-dir", "run"]
    return main([*words, "--attacks", *names, *options])


def evaluate(*options, folders=("fs",), model="base"):
    words = ["evaluate", "detectors", model, "--run-dir", "run", "--batch-size", "50"]
    return main([*words, *(("--detectors", *folders) if folders else ()), *options])


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A copy of the template as the current folder, where nothing may be scored."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        detector_jobs, "score_all", lambda *given, **more: pytest.fail("something was scored")
    )
    return folder


def starts():
    return [entry["cell"] for entry in Store(Path("run")).read_log() if entry["event"] == "start"]


def test_a_finished_run_is_not_computed_again_and_reported(here, capsys):
    before = starts()
    assert sum(name.startswith("fs-small-") for name in before) == 5  # clean, two attacks, two radii
    assert evaluate(*SWEEP) == 0 and starts() == before
    said = capsys.readouterr().out
    assert "run: 5 of 5 cells finished; deepsec report run" in said and "Detectors of base, digits" in said
    assert main(["report", "run"]) == 0
    said = capsys.readouterr().out
    assert "report run/report/detectors.html" in said and "report run/report/attacks.html" in said
    page = Path("run/report/detectors.html").read_text()
    assert "The paper has no table of detectors on digits." in page and "Feature squeezing" in page


def test_cells_are_of_the_fitted_detector_and_the_stored_images(here):
    cells = {(cell.kind, cell.config.get("attack", {}).get("name"), cell.config.get("eps")): cell
             for cell in read_cells("run")}  # fmt: skip
    fitted = defenses.load_defended("fs").detector
    clean, test = cells["clean", None, None], data.load("digits").test
    assert len(clean.arrays["scores"]) == len(test) and clean.environment["validation"] == 134
    assert clean.environment["fpr"] == 0.1 and clean.config["threshold"] == fitted.threshold
    for name in ("fgsm", "llc"):
        source, cell = cells["attack", name, None], cells["detection", name, None]
        scores = np.asarray(fitted.score(source.arrays["x_adv"]))
        assert np.allclose(cell.arrays["scores"], scores, atol=1e-5) and cell.config["source"] == source.name
        assert np.array_equal(cell.arrays["success"], source.arrays["success"])
    assert cells["sweep", "fgsm", 0.1].config["n"] == N
    assert len(clean.config["weights"]["detector"]) == 16


def test_a_dry_run_writes_nothing_and_says_what_is_missing(here, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert evaluate(*SWEEP, "0.5", "--dry-run", folders=("fs", "fs2")) == 0
    said = capsys.readouterr().out
    assert said.count("present ") == 5 and said.count("missing ") == 7
    assert "for 7 cells" in said and "from a batch that was timed now" in said
    assert evaluate("--dry-run") == 0
    assert "nothing to compute" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}


def test_named_attacks_alone_are_scored(here, capsys):
    assert evaluate("--attacks", "llc", "--dry-run", folders=("fs2",)) == 0
    said = capsys.readouterr().out
    assert said.count("missing ") == 2 and "llc" in said and "fgsm" not in said


def test_what_fails_is_recorded_and_the_rest_stays(here, monkeypatch, capsys):
    monkeypatch.setattr(detector_jobs, "score_all", lambda *given, **more: 1 / 0)
    assert evaluate("--sweep", "0.2") == 1
    captured = capsys.readouterr()
    (failed,) = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert "ZeroDivisionError" in failed and "3 of 4 cells finished" in captured.out


def test_planted_what_is_not_finished_would_be_scored(here):
    with pytest.raises(pytest.fail.Exception, match="something was scored"):
        evaluate(folders=("fs2",))


# --- inputs


def edit_card(folder, **changes):
    def edit(here):
        path = here / folder / CARD
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def without_attacks(here):
    shutil.rmtree(here / "run")


BAD = {
    "no detector named": ({"folders": ()}, (), "--detectors names no folder: give those that", None),
    "twice": ({"folders": ("fs", "./fs")}, (), "more than once: name each once", None),
    "no such folder": ({"folders": ("nowhere",)}, (), "no defended model in nowhere: give a folder", None),
    "a defense": ({"folders": ("nat",)}, (), "nat holds nat, which is no detector: give it to deepsec", None),
    "another base": ({}, (), "fs guards mine as it was then, not base", edit_card("fs", base="mine")),
    "other weights": ({"folders": ("far",)}, (), "far guards base as it was then, not base: give the", None),
    "no threshold": ({}, (), "detector", lambda here: (here / "fs/detector.npz").unlink()),
    "no attacks": ({}, (), "run has no finished images of any attack on this model: make them with deepsec "
                   "evaluate attacks base --run-dir run", without_attacks),
    "an attack that is not there": (
        {}, ("--attacks", "fgsm", "pgd"), "no finished images of pgd on this model: make them with deepsec "
        "evaluate attacks base --attacks pgd --run-dir run", None),
    "attacks on other images": ({}, ("--n", "13"), "evaluate attacks base --n 13 --run-dir run", None),
    "attacks of another kind": ({}, ("--preset", "strong"), "evaluate attacks base --preset strong", None),
    "no images": ({}, ("--n", "0"), "--n must be at least 1, got 0", None),
    "negative seed": ({}, ("--seed=-1",), "--seed must be at least 0, got -1", None),
    "no radius": ({}, ("--sweep", "0.1", "0"), "--sweep must lie above 0 and be at most 1", None),
    "radius in grey levels": ({}, ("--sweep", "8"), "at most 1, the range of a pixel, got 8", None),
    "a radius twice": ({}, ("--sweep", "0.1", "0.10"), "--sweep names 0.1 more than once", None),
    "no batch": ({}, ("--batch-size", "0"), "--batch-size must be at least 1, got 0", None),
    "no base folder": ({"model": "nowhere"}, (), "no model in", None),
    "cut off cell": ({}, (), "arrays.npz is cut off", lambda here: [
        path.write_bytes(path.read_bytes()[:100]) for path in here.glob("run/cells/fs-*clean*/arrays.npz")]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_one_line_and_costs_nothing(name, here, capsys):
    settings, options, words, prepare = BAD[name]
    if prepare is not None:
        prepare(here)
    before = starts()
    assert evaluate(*options, **settings) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and captured.out == "", captured
    assert words in lines[0] and starts() == before


def test_a_sweep_wants_one_candidate_set(here, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert attack("fgsm", options=("--seed", "5")) == 0
    capsys.readouterr()
    assert evaluate(*SWEEP) == 2
    line = capsys.readouterr().err
    assert "--sweep wants one candidate set" in line and f"--n {N} --seed 5" in line
    assert evaluate(*SWEEP, "--seed", "5", "--dry-run") == 0


# --- the command line


def test_detectors_have_their_own_options(tmp_path, monkeypatch):
    words = "evaluate detectors m --detectors a b --attacks fgsm --sweep 0.1 0.2"
    wanted = DetectorOptions(model="m", detectors=("a", "b"), attacks=("fgsm",), sweep=(0.1, 0.2))
    assert _parse(words.split()) == wanted
    assert _parse(words.replace("detectors m", "detectors --model m").split()) == wanted
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text('model = "m"\ndetectors = ["a", "b"]\nattacks = ["fgsm"]\nsweep = [0.1]\n')
    found = _parse(["evaluate", "detectors", "--spec", "spec.toml", "--sweep", "0.1", "0.2"])
    assert (found.model, found.detectors, found.sweep) == ("m", ("a", "b"), (0.1, 0.2))
    with pytest.raises(SystemExit):
        _parse(["evaluate", "detectors", "m", "--defenses", "a"])


def test_detection_metrics_are_listed(capsys):
    assert main(["list", "metrics"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "area under the ROC curve" in said and "evasion" in said

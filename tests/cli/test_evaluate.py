"""``deepsec evaluate attacks`` and ``deepsec report``: only what is missing, failures, plans, the report."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from subjects import MODULE, Models, make_npz

from deepsec_jax import attacks, metrics
from deepsec_jax.catalog import UnknownName
from deepsec_jax.cli.main import main
from deepsec_jax.data import load
from deepsec_jax.evaluation import attack_jobs
from deepsec_jax.evaluation.attack_jobs import attack_config, column_groups
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.attacks.jobs import presets

N = 10


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Run ``deepsec evaluate attacks`` on the linear model in a folder of its own."""
    monkeypatch.setitem(sys.modules, MODULE, Models)
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path / "own.npz")

    def run(*options):
        words = ["--model", f"{MODULE}:linear", "--data", "own.npz", "--n", str(N), "--run-dir", "run"]
        return main(["evaluate", "attacks", *words, *options])

    return run


@pytest.fixture
def ran(monkeypatch):
    """The attacks that were run, in order."""
    attacked, names = attack_jobs.attacked, []

    def watched(attack, *arguments, **options):
        names.append(type(attack).__name__.lower())
        return attacked(attack, *arguments, **options)

    monkeypatch.setattr(attack_jobs, "attacked", watched)
    return names


def test_cells_hold_what_the_report_needs(evaluate, ran, capsys):
    assert evaluate("--attacks", "fgsm", "llc", "--metrics", "mr", "l2", "cc", "cc_bare", "ric") == 0
    assert "run: 2 of 2 attacks finished; deepsec report run" in capsys.readouterr().out
    untargeted, targeted = read_cells("run")
    assert untargeted.config["attack"] == {
        "name": "fgsm", "class": "FGSM", "preset": "paper",
        "hyperparameters": {"eps": 0.3, "targeted": False, "loss": "logit_gap"}, "versions": {"FGSM": 1},
    }  # fmt: skip
    arrays = untargeted.arrays
    assert arrays["rows"].dtype == np.int32 and (arrays["targets"] == -1).all()
    test = load("own.npz").test
    assert np.array_equal(arrays["x"], test.images[arrays["rows"]])
    assert np.array_equal(arrays["labels"], test.labels[arrays["rows"]])
    assert np.allclose(arrays["probabilities"].sum(axis=1), 1, atol=1e-6)
    missed = arrays["probabilities"].argmax(axis=1) != arrays["labels"]
    assert np.array_equal(missed, untargeted.columns["mr"]) and np.array_equal(missed, arrays["success"])
    hit = targeted.arrays["probabilities"].argmax(axis=1) == targeted.arrays["targets"]
    assert np.array_equal(hit, targeted.arrays["success"] >= 0.5)
    environment = untargeted.environment
    assert untargeted.columns["cc"] == pytest.approx(environment["seconds"] / N, rel=1e-6)
    ratio = environment["seconds"] / N / environment["gradient_seconds"]
    assert untargeted.columns["cc_bare"] == pytest.approx(ratio, rel=1e-5)
    assert environment["batch_size"] == N and environment["versions"]["jax"]
    assert main(["report", "run", "--no-times"]) == 0
    said = capsys.readouterr().out
    assert "fgsm" in said and "report run/report/attacks.html" in said
    before = {path.name: path.read_bytes() for path in Path("run/report").iterdir()}
    assert main(["report", "run", "--no-times", "--out", "again"]) == 0
    assert before == {path.name: path.read_bytes() for path in Path("again").iterdir()}


def test_only_what_is_missing_is_computed(evaluate, ran):
    assert evaluate("--attacks", "fgsm", "--metrics", "mr") == 0
    (archive,) = Path("run/cells").glob("*/arrays.npz")
    written = archive.stat().st_mtime_ns
    assert evaluate("--attacks", "fgsm", "bim", "--metrics", "mr", "l2") == 0
    assert ran == ["fgsm", "bim"] and archive.stat().st_mtime_ns == written
    assert [sorted(cell.columns) for cell in read_cells("run")] == [["l2", "mr"]] * 2
    assert evaluate("--attacks", "bim", "fgsm", "--metrics", "mr", "--batch-size", "3") == 0
    assert ran == ["fgsm", "bim"]
    assert evaluate("--attacks", "fgsm", "--metrics", "mr", "--seed", "1") == 0
    assert ran == ["fgsm", "bim", "fgsm"] and len(read_cells("run")) == 3


def test_a_failing_attack_is_recorded_and_the_rest_goes_on(evaluate, monkeypatch, capsys):
    options = ("--attacks", "fgsm", "bim", "llc", "--metrics", "mr")
    attacked = attack_jobs.attacked

    def breaks(attack, *arguments, **more):
        if isinstance(attack, attacks.BIM):
            raise RuntimeError("out of luck\nand of memory")
        return attacked(attack, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(attack_jobs, "attacked", breaks)
        assert evaluate(*options) == 1
    captured = capsys.readouterr()
    failed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and "RuntimeError: out of luck and of memory" in failed[0]
    assert "see run/failed/bim-" in failed[0] and "2 of 3 attacks finished" in captured.out
    assert [cell.error for cell in read_cells("run")] == [
        None,
        "RuntimeError: out of luck and of memory",
        None,
    ]
    assert evaluate(*options, "--dry-run") == 0
    assert "failed before: RuntimeError: out of luck" in capsys.readouterr().out
    assert evaluate(*options) == 0
    assert [cell.error for cell in read_cells("run")] == [None] * 3


def test_a_dry_run_writes_nothing_and_says_where_its_time_is_from(evaluate, ran, capsys):
    assert evaluate("--attacks", "fgsm", "bim", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.count("missing") == 2 and "measured now" in said
    assert ran == [] and not Path("run").exists()
    assert evaluate("--attacks", "fgsm", "--metrics", "mr") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    capsys.readouterr()
    assert evaluate("--attacks", "fgsm", "fgsm@0.5", "--metrics", "mr", "l2", "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("columns") and said[1].endswith("lacks l2") and said[2].startswith("missing")
    assert "from a recorded cell" in said[3]
    assert before == {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}


def test_a_spec_and_flags_name_the_same_cells(evaluate, ran):
    Path("spec.toml").write_text('attacks = ["fgsm"]\nmetrics = ["mr"]\nn = 99\n')
    assert evaluate("--spec", "spec.toml") == 0
    assert evaluate("--attacks", "fgsm", "--metrics", "mr") == 0
    assert ran == ["fgsm"] and len(Store(Path("run")).plan()) == 1


def test_an_unfinished_plan_is_no_report_and_a_full_one_asks_nothing_of_the_disk(evaluate, ran, monkeypatch):
    from deepsec_jax.runs import atomic

    assert evaluate("--attacks", "fgsm", "--metrics", "mr") == 0

    def refuse(descriptor):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    assert evaluate("--attacks", "fgsm", "--metrics", "mr") == 0 and ran == ["fgsm"]


@pytest.mark.parametrize("kind", ["paper", "strong"])
def test_by_default_all_attacks_that_exist_are_wanted_in_the_papers_order(kind):
    chosen = presets((), SimpleNamespace(dataset=load("digits"), channels=1), kind)
    assert {name.partition("@")[0] for name in chosen} == set(attacks.ATTACKS)
    assert ("fgsm@0.5" in chosen) == (kind == "paper")
    rows = [row for row in attacks.ROWS["mnist"] if row in chosen]
    assert list(chosen)[: len(rows)] == rows


def test_columns_are_grouped_by_where_they_are_computed():
    assert column_groups(["mr", "ric", "l2"]) == {"device": ("mr", "l2"), "ric": ("ric",)}
    assert column_groups(["ric"]) == {"ric": ("ric",)}
    everything = column_groups(tuple(metrics.METRICS))
    assert sorted(sum(everything.values(), ())) == sorted(metrics.METRICS)
    with pytest.raises(UnknownName, match="Did you mean"):
        column_groups(["l22"])


def config_of(name, digest="d"):
    attack = attacks.preset(name, "mnist", "strong")
    return attack_config(
        name, attack, preset="strong", data="mnist", model={"name": "m"}, candidates="c", n=5, seed=0,
        train_digest=lambda: digest, images="test-0",
    )  # fmt: skip


def test_a_fitted_attack_is_another_cell_for_other_training_images():
    assert cell_name(config_of("uap")) != cell_name(config_of("uap", "other"))
    assert cell_name(config_of("pgd")) == cell_name(config_of("pgd", "other"))


def test_an_attack_of_another_version_is_another_cell(monkeypatch):
    before = {name: cell_name(config_of(name)) for name in ("pgd", "cw2")}  # strong PGD is a Restarts
    assert config_of("pgd")["attack"]["versions"] == {"PGD": 1, "Restarts": 1, "Steepest": 1}
    monkeypatch.setattr(attacks.PGD, "card", replace(attacks.PGD.card, version=2))
    assert cell_name(config_of("pgd")) != before["pgd"] and cell_name(config_of("cw2")) == before["cw2"]


def test_a_config_is_plain_json():
    config = config_of("pgd")
    again = json.loads(json.dumps(config))
    assert again == config and cell_name(again) == cell_name(config)
    assert config["attack"]["class"] == "PGD" and config["attack"]["hyperparameters"]["restarts"] == 10

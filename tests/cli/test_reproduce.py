"""deepsec reproduce: plans, stages, several processes, the site."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from subjects import MODULE, Models, make_npz

from benchmarks.promises import reproduce_kills
from deepsec_jax.cli import main as command_line
from deepsec_jax.cli import reproduce
from deepsec_jax.cli.main import main
from deepsec_jax.cli.plan import InputError, plans, read
from deepsec_jax.cli.processes import INTERRUPTED, beside
from deepsec_jax.studies.site import shown_by
from deepsec_jax.studies.table import STUDIES

HERE = Path("runs/here")

TINY = """
title = "A tiny plan"
note = "Two attacks, one of which does not exist."
model = "deepsec_test_models:linear"

[groups]
attacks = ["fgsm", "bim"]

[[stage]]
name = "first"
purpose = "One command for each name."
each = ["attacks"]
run = ["evaluate attacks {model} --data own.npz --attacks {name} --n 8 --metrics mr --run-dir {here}/run"]

[[stage]]
name = "second"
purpose = "A command that cannot work."
run = ["evaluate attacks {model} --data own.npz --attacks nonsense --run-dir {here}/run"]
"""

SHARED = """
title = "A plan for two"
note = "Two lists."
model = "nothing"
processes = 2

[[stage]]
name = "first"
purpose = "Two commands that take no time."
run = ["list data", "list models"]
"""


@pytest.mark.parametrize("name", plans())
def test_every_command_of_a_plan_is_a_command(name):
    plan = read(name, HERE, Path("tfds"))
    assert plan.title and plan.note and len({stage.name for stage in plan.stages}) == len(plan.stages)
    for stage in plan.stages:
        assert stage.commands
        for words in stage.commands:
            assert not any("{" in word for word in words), "a name that was not replaced"
            command_line._parse(list(words))  # exits if an option is unknown


def test_a_plan_covers_every_attack_and_defense():
    from deepsec_jax.defenses import DEFENSES

    for name in plans():
        fitted = {
            words[1]
            for stage in read(name, HERE, None).stages
            for words in stage.commands
            if words[0] == "defend"
        }
        assert fitted == set(DEFENSES)


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A model of the user's, and images, in the current folder."""
    monkeypatch.setitem(sys.modules, MODULE, Models)
    monkeypatch.chdir(tmp_path)
    make_npz(tmp_path / "own.npz")


def tiny(tmp_path, text=TINY):
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return path


@pytest.mark.usefixtures("own")
def test_stages_site_and_a_failed_command(tmp_path, capsys):
    plan, here = tiny(tmp_path), tmp_path / "here"
    assert main(["reproduce", str(plan), "--run-dir", str(here)]) == 1, "one command cannot work"
    said = capsys.readouterr()
    assert "failed: deepsec evaluate attacks" in said.err and "nonsense" in said.err
    index = (here / "site" / "index.html").read_text()
    assert "A tiny plan" in index and 'href="attacks.html"' in index and "--attacks fgsm" in index
    assert "FGSM" in (here / "site" / "attacks.html").read_text()
    assert "bim" in (here / "site" / "attacks.csv").read_text()
    cells = sorted(path.name for path in (here / "run" / "cells").iterdir())
    assert len(cells) == 2
    assert main(["reproduce", str(plan), "--run-dir", str(here), "--only", "first"]) == 0
    assert sorted(path.name for path in (here / "run" / "cells").iterdir()) == cells, (
        "nothing is computed twice"
    )


def test_a_command_of_another_process_is_left_for_later(tmp_path, monkeypatch):
    ran = []
    stage = reproduce.Stage("fit", "", (("defend", "one"), ("defend", "two")))
    held = FileLock(tmp_path / "fit-0.lock")
    held.acquire()

    def run(words):
        ran.append(words[1])
        held.release()
        return 0

    monkeypatch.setattr(command_line, "main", run)
    assert [words[1] for words, _ in reproduce._run(stage, tmp_path)] == ["two", "one"] == ran


def test_the_page_of_attacks_leaves_out_what_other_studies_made_for_themselves():
    def cell(name, model="mine", **more):
        return SimpleNamespace(config={"attack": {"name": name}, "model": {"name": model}, **more})

    usual, curve, matrix = cell("fgsm@0.5"), cell("bim@steps:5"), cell("pgd", "another")
    judged = cell("pgd", kind="transfer", original="mine")
    assert shown_by(STUDIES["attacks"], [usual, curve, matrix, judged]) == [usual, judged]
    assert shown_by(STUDIES["attacks"], [usual, matrix]) == [usual, matrix]
    every = [usual, curve, matrix, judged]
    assert shown_by(STUDIES["transferability"], every) == every


def test_sites_that_differ_are_named():
    site = {"index.html": b"a", "attacks.csv": b"b"}
    assert reproduce_kills.differing(site, site) == []
    assert reproduce_kills.differing({"index.html": b"a"}, site) == ["attacks.csv"]
    assert reproduce_kills.differing(site | {"index.html": b"c"}, site) == ["index.html"]


@pytest.mark.long  # six processes of some seconds each
def test_killed_runs_write_the_same_site(tmp_path, monkeypatch):
    (tmp_path / "killed_models.py").write_text(
        "from conftest import make_linear\n\n\ndef linear():\n    return make_linear((4, 4, 1))\n"
    )
    make_npz(tmp_path / "own.npz")
    text = TINY.partition('[[stage]]\nname = "second"')[0]
    text = text.replace("deepsec_test_models", "killed_models").replace("own.npz", str(tmp_path / "own.npz"))
    plan = tiny(tmp_path, text)
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, tests, tests.parent))))
    rows, facts = reproduce_kills.compare(str(plan), tmp_path / "runs", kills=1, seed=0)
    assert [row[-2:] for row in rows] == [[0, "ok"], [0, "ok"]] and "attacks.csv" in facts["files"]


def test_an_interruption_ends_the_work(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(command_line, "main", lambda words: ran.append(words) or reproduce.INTERRUPTED)
    work = reproduce.Reproduce(str(tiny(tmp_path)), run_dir=tmp_path / "here")
    assert work.run() == reproduce.INTERRUPTED and len(ran) == 1
    assert not (tmp_path / "here" / "site").exists()


def test_a_further_process_ends_with_its_parent(tmp_path):
    """The lock keeps it waiting for ever; only the closed pipe can end it."""
    text = TINY.replace("evaluate attacks {model} --data own.npz --attacks {name}", "defend {name}")
    plan, locks = tiny(tmp_path, text), tmp_path / "here" / "locks"
    with FileLock(locks / "first-0.lock"), FileLock(locks / "first-1.lock"):
        with beside(["reproduce", str(plan), "--run-dir", str(tmp_path / "here")], 1, tmp_path) as more:
            (process,) = more.started
            while "[1/2] first" not in (tmp_path / "process-2.log").read_text():
                assert process.poll() is None
                time.sleep(0.1)
            more.close()
        assert process.returncode == INTERRUPTED


def test_a_further_process_goes_through_the_stages_twice_and_writes_no_site(tmp_path):
    work = reproduce.Reproduce(str(tiny(tmp_path, SHARED)), run_dir=tmp_path / "here", processes=2)
    (tmp_path / "here" / "run").mkdir(parents=True)
    with beside(work._words(tmp_path / "here"), 1, tmp_path) as more:
        more.wait()
    assert [process.returncode for process in more.started] == [0]
    said = (tmp_path / "process-2.log").read_text()
    assert "[1/2] first" in said and "[2/2] first" in said
    assert not (tmp_path / "here" / "site").exists()


def test_an_evaluation_waits_for_the_models_of_its_stage(tmp_path, monkeypatch):
    """Planted: a training that another process holds; the evaluation needs what it writes."""
    ran = []
    stage = reproduce.Stage("both", "", (("train", "one"), ("train", "two"), ("evaluate", "three")))
    held = FileLock(tmp_path / "both-0.lock")
    held.acquire()

    def run(words):
        ran.append(words[1])
        held.release()
        return 0

    monkeypatch.setattr(command_line, "main", run)
    list(reproduce._run(stage, tmp_path, ahead=True))
    assert ran == ["two", "one", "three"]


def test_only_evaluations_are_left_to_others(tmp_path, monkeypatch):
    ran = []
    stage = reproduce.Stage("both", "", (("train", "one"), ("evaluate", "two")))
    monkeypatch.setattr(command_line, "main", lambda words: ran.append(tuple(words)) or 0)
    list(reproduce._run(stage, tmp_path, ahead=True))
    assert ran == [("train", "one"), ("evaluate", "two", "--no-wait")]


def test_dry_run_writes_nothing(tmp_path, capsys):
    assert main(["reproduce", "digits", "--run-dir", str(tmp_path / "here"), "--dry-run"]) == 0
    assert "deepsec evaluate security" in capsys.readouterr().out
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TINY.replace('title = "A tiny plan"', ""), "title"),
        (TINY.replace("{name}", "{nobody}"), "nobody"),
        (TINY.replace('each = ["attacks"]', 'each = ["nobody"]'), "nobody"),
        (TINY.replace('each = ["attacks"]', 'each = "attacks"'), "each = 'attacks'"),
        (TINY.replace("model =", "processes = 0\nmodel ="), "processes = 0"),
        ("title =", "Invalid value"),
    ],
)
def test_plans_that_are_refused(tmp_path, text, said):
    with pytest.raises(InputError, match="is not valid") as refused:
        read(str(tiny(tmp_path, text)), HERE, None)
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_unknown_plan_and_stage(tmp_path, capsys):
    assert main(["reproduce", "nothing"]) == 2
    assert "give cifar10, digits, mnist, or the path" in capsys.readouterr().err
    assert main(["reproduce", str(tiny(tmp_path)), "--only", "third"]) == 2
    assert "it has first, second" in capsys.readouterr().err

"""Bad inputs: each is one line with the value and the remedy, exit code 2, no attack run, nothing lost."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flax import nnx
from subjects import MODULE, Models, make_npz

from deepsec_jax import models, training
from deepsec_jax.cli.main import main
from deepsec_jax.evaluation import attack_jobs
from deepsec_jax.runs import atomic
from deepsec_jax.training.checkpoints import save_model


@dataclass(frozen=True)
class Bad:
    """A command line that cannot work in a folder that holds own.npz, a model folder and a finished run.

    Attributes:
        name: what is wrong.
        words: what the line must say.
        options: of ``deepsec evaluate attacks``.
        model: function of the model, or a path.
        data: data set.
        prepare: done before, with the folder and pytest's monkeypatch.
    """

    name: str
    words: str
    options: tuple[str, ...] = ()
    model: str = "linear"
    data: str | None = "own.npz"
    prepare: Callable[[Path, Any], Any] = lambda folder, patch: None


def arrays(**changes):
    """Write bad.npz: own.npz with some arrays changed, or left out where the change is None."""

    def prepare(folder, patch):
        found = dict(np.load(folder / "own.npz"))
        for name, change in changes.items():
            found[name] = None if change is None else change(found[name])
        np.savez(folder / "bad.npz", **{name: array for name, array in found.items() if array is not None})

    return prepare


def spec(text):
    return lambda folder, patch: (folder / "spec.toml").write_text(text)


def refuse(number):
    """Let the disk refuse every write; root may write anywhere, so permissions would prove nothing."""

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    return lambda folder, patch: patch.setattr(atomic.os, "fsync", fsync)


def cut(pattern):
    def prepare(folder, patch):
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return prepare


def edit(pattern, old, new):
    def prepare(folder, patch):
        (path,) = folder.glob(pattern)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return prepare


def small_disk(folder, patch):
    patch.setattr(atomic.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))


def pickled(folder, patch):
    np.savez(folder / "bad.npz", x_train=np.array([None]), allow_pickle=True)


def half(folder, patch):
    content = (folder / "own.npz").read_bytes()
    (folder / "bad.npz").write_bytes(content[: len(content) // 2])


SPEC = ("--spec", "spec.toml")
NEW = ("--attacks", "bim")

BAD = [
    Bad("no images", "--n must be at least 1, got 0", ("--n", "0")),
    Bad("negative n", "--n must be at least 1, got -3", ("--n=-3",)),
    Bad("no batch", "--batch-size must be at least 1, got 0", ("--batch-size", "0")),
    Bad("negative seed", "--seed must be at least 0, got -1", ("--seed=-1",)),
    Bad("unknown attack", "unknown attack 'pdg'. Did you mean pdpgd or pgd", ("--attacks", "pdg")),
    Bad("unknown variant", "unknown paper preset on mnist 'pgd@7'. Did you mean pgd", ("--attacks", "pgd@7")),
    Bad("attack twice", "--attacks names pgd more than once", ("--attacks", "pgd", "pgd")),
    Bad("unknown metric", "unknown metric 'acacc'. Did you mean acac", ("--metrics", "acacc")),
    Bad("metric twice", "--metrics names mr more than once", ("--metrics", "mr", "mr")),
    Bad("too many images", "only 100 of 100 test images are classified correctly: take n", ("--n", "101")),
    Bad("no such function", "has no function 'missing'", model="missing"),
    Bad("no function", "has no function 'number'", model="number"),
    Bad("function that fails", "broken() failed (RuntimeError: no weights at hand)", model="broken"),
    Bad("function with arguments", "must return a model when called without arguments", model="asks"),
    Bad("no such module", "cannot import no.such.module", model="no.such.module:f"),
    Bad("no module", "cannot import nothing", model=":f"),
    Bad("nothing as model", "model must be a pytree callable (images -> logits), got None", model="nothing"),
    Bad("plain function", "pass jax.tree_util.Partial(apply, params)", model="plain"),
    Bad("training mode", "call model.eval() first", model="training"),
    Bad("NaN weights", "NaN or infinite weights: train it again", model="sick"),
    Bad("model of larger images", "the model on images 4x4x1", model="larger"),
    Bad("no logits", "the model must return logits [2, classes >= 2], got [2]", model="flat"),
    Bad("keys of nobody", "set row_keys = ('weights',) if it is one key per row", model="undeclared"),
    Bad("no model folder", "no model in", model="./nowhere"),
    Bad("no data set", "name one with --data", data=None),
    Bad("no such file", "no file none.npz: give the path of an .npz", data="none.npz"),
    Bad("unknown data set", "unknown data set 'mnits'", data="mnits"),
    Bad("cut off npz", "bad.npz is cut off or no .npz", data="bad.npz", prepare=half),
    Bad("pickled npz", "bad.npz holds pickled objects", data="bad.npz", prepare=pickled),
    Bad("missing array", "bad.npz lacks y_test", data="bad.npz", prepare=arrays(y_test=None)),
    Bad("no channels", "x_test has shape (100, 4, 4): need [N, height, width, channels]", data="bad.npz",
        prepare=arrays(x_test=lambda x: x[..., 0])),
    Bad("another shape in test", "bring both to one shape", data="bad.npz",
        prepare=arrays(x_test=lambda x: x[:, :3])),
    Bad("empty", "x_train is empty", data="bad.npz", prepare=arrays(x_train=lambda x: x[:0])),
    Bad("0 .. 255 floats", "bring floats to [0, 1]", data="bad.npz",
        prepare=arrays(x_test=lambda x: 255 * x)),
    Bad("NaN image", "ranges over [nan, nan]", data="bad.npz", prepare=arrays(x_test=lambda x: x * np.nan)),
    Bad("int32 images", "x_test is int32: need uint8, or float in [0, 1]", data="bad.npz",
        prepare=arrays(x_test=lambda x: x.astype(np.int32))),
    Bad("one-hot labels", "one-hot labels: use y.argmax(1)", data="bad.npz",
        prepare=arrays(y_test=lambda y: np.eye(3)[y])),
    Bad("float labels", "y_test must be integers 0 .. K-1, got float64", data="bad.npz",
        prepare=arrays(y_test=lambda y: y.astype(float))),
    Bad("negative labels", "y_test must be integers 0 .. K-1, got -1 .. 1", data="bad.npz",
        prepare=arrays(y_test=lambda y: y - 1)),
    Bad("labels beyond the model", "test labels range over 1 .. 3, but the model has classes 0 .. 2",
        data="bad.npz", prepare=arrays(y_test=lambda y: y + 1)),
    Bad("no spec", "cannot read spec.toml (No such file or directory)", SPEC),
    Bad("spec no TOML", "spec.toml is no TOML", SPEC, prepare=spec("n: 3")),
    Bad("unknown option in spec", "unknown option 'atacks'. Did you mean attacks", SPEC,
        prepare=spec("atacks = []")),
    Bad("type in spec", "spec.toml: n must be an integer, got '12'", SPEC, prepare=spec("n = '12'")),
    Bad("value in spec", "--seed must be at least 0, got -2", SPEC, prepare=spec("seed = -2")),
    Bad("run directory is a file", "own.npz is a file: choose another --run-dir", ("--run-dir", "own.npz")),
    Bad("folder of somebody else", "holds other files (thesis.tex)", ("--run-dir", "mine"),
        prepare=lambda folder, patch: ((folder / "mine").mkdir(), (folder / "mine/thesis.tex").touch())),
    Bad("read-only disk", "cannot write run (Read-only file system): make it writable", NEW,
        prepare=refuse(30)),
    Bad("full disk", "cannot write run (No space left on device): free some space", NEW, prepare=refuse(28)),
    Bad("small disk", "MB free, but what is missing takes about", NEW, prepare=small_disk),
    Bad("cut off cell", "arrays.npz is cut off", NEW, prepare=cut("run/cells/*/arrays.npz")),
    Bad("edited cell", "config.json belongs to", NEW,
        prepare=edit("run/cells/*/config.json", '"seed": 0', '"seed": 9')),
    Bad("cut off plan", "plan.json is damaged", NEW, prepare=cut("run/plan.json")),
    Bad("cut off candidates", "is damaged", NEW, prepare=cut("run/candidates/*.npz")),
    Bad("cut off card", "recipe.json is damaged", model="./model", prepare=cut("model/recipe.json")),
    Bad("cut off weights", "weights in", model="./model", prepare=cut("model/model/**/d/*")),
    Bad("another network", "weights in", model="./model",
        prepare=edit("model/recipe.json", '"small_cnn"', '"resnet20"')),
    Bad("unknown network", "Did you mean small_cnn", model="./model",
        prepare=edit("model/recipe.json", '"small_cnn"', '"smal_cnn"')),
]  # fmt: skip


def evaluate(case: Bad) -> int:
    model = case.model if case.model.startswith(".") or ":" in case.model else f"{MODULE}:{case.model}"
    given = {"--data": case.data, "--n": "10", "--run-dir": "run"}
    kept = {name: value for name, value in given.items() if value and name not in case.options}
    chosen = [part for pair in kept.items() for part in pair]
    if case.options == SPEC:
        chosen = ["--data", "own.npz", "--run-dir", "run"]
    metrics = [] if "--metrics" in case.options else ["--metrics", "mr"]
    attacks = [] if "--attacks" in case.options else ["--attacks", "fgsm"]
    return main(["evaluate", "attacks", model, *chosen, *metrics, *attacks, *case.options])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with own.npz, a finished run of one attack in run/, and a model folder in model/."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, MODULE, Models)
        patch.chdir(folder)
        make_npz(folder / "own.npz")
        assert evaluate(Bad("good", "")) == 0
    model = models.build("small_cnn", (8, 8, 1), 10, seed=0)
    assert isinstance(model, nnx.Module)
    save_model(
        folder / "model", model, training.recipe("digits-small"), image_shape=(8, 8, 1), classes=10,
        figures={"test_accuracy": 0.5, "test_images": 450},
    )  # fmt: skip
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """File -> content, apart from lock files, which are empty."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A copy of the template as the current folder, where no attack may run."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.setitem(sys.modules, MODULE, Models)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(attack_jobs, "attacked", lambda *given, **more: pytest.fail("an attack was run"))
    return folder


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and captured.out == "", captured
    return lines[0]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_bad_input_is_one_line_and_costs_nothing(case, here, monkeypatch, capsys):
    case.prepare(here, monkeypatch)
    before = contents(here)
    assert evaluate(case) == 2
    assert case.words in one_line(capsys)
    assert contents(here) == before


def test_there_are_forty():
    assert len(BAD) >= 40 and len({case.name for case in BAD}) == len(BAD)


def test_planted_a_command_that_works_is_told_from_a_refused_one(here, capsys):
    before = contents(here)
    with pytest.raises(pytest.fail.Exception, match="an attack was run"):
        evaluate(Bad("good", "", NEW))
    assert contents(here) != before
    capsys.readouterr()
    assert evaluate(Bad("good and finished", "")) == 0
    with pytest.raises(AssertionError):
        one_line(capsys)


@pytest.mark.parametrize(
    ("words", "prepare", "run"),
    [
        ("no run in nowhere: give a folder", lambda folder, patch: None, "nowhere"),
        ("no run in model: give a folder", lambda folder, patch: None, "model"),
        ("mr.npy is damaged", cut("run/columns/*/mr.npy"), "run"),
        ("arrays.npz", cut("run/cells/*/arrays.npz"), "run"),
        ("plan.json is damaged", cut("run/plan.json"), "run"),
        ("environment.json is damaged", cut("run/cells/*/environment.json"), "run"),
    ],
)
def test_a_report_of_what_is_damaged_or_no_run_is_one_line(here, monkeypatch, capsys, words, prepare, run):
    prepare(here, monkeypatch)
    before = contents(here)
    assert main(["report", run]) == 2
    assert words in one_line(capsys) and contents(here) == before


@pytest.mark.parametrize("verb", ["attack", "train"])
def test_other_verbs_see_a_disk_that_refuses_before_they_compute(here, monkeypatch, capsys, verb):
    monkeypatch.setattr("deepsec_jax.evaluation.attack_jobs.attacked", lambda *given: pytest.fail("ran"))
    monkeypatch.setattr("deepsec_jax.training.train", lambda *given: pytest.fail("trained"))
    refuse(30)(here, monkeypatch)
    before = contents(here)
    options = {"attack": [f"{MODULE}:linear", "--data", "own.npz"], "train": ["digits-small"]}[verb]
    assert main([verb, *options]) == 2
    assert "Read-only file system" in one_line(capsys) and contents(here) == before


def test_a_plan_from_another_tool_is_named(here, capsys):
    (here / "run" / "plan.json").write_text(json.dumps({"cells": {"x": {"seed": 0}}}))
    assert main(["report", "run"]) == 2
    assert "plan.json is damaged" in one_line(capsys)

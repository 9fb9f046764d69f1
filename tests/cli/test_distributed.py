"""``deepsec ... --distributed``: two processes write the same run directories and models as one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from children import ended_together, free_address, run_together
from cli.subjects import make_npz
from cli.test_evaluate_defenses import write_card, write_model
from flax import nnx

from deepsec_jax import attacks, data, defenses, training
from deepsec_jax.cli import outcomes
from deepsec_jax.cli.main import main
from deepsec_jax.defenses import PAT
from deepsec_jax.evaluation import attack_jobs
from deepsec_jax.runs.store import Store, read_cells
from deepsec_jax.studies.column_versions import column_versions

TESTS = Path(__file__).parent.parent
MODEL = "from cli.subjects import Models\n\n\ndef linear():\n    return Models.linear()\n"
BASE = ("digits", "base")


def environment(folder: Path, address: str = "", number: int = 0) -> dict[str, str]:
    """Return the environment of a process alone, or of one of two."""
    paths = (str(folder), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", ""))
    plain = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    both = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number)}
    return plain | both if address else plain


def program(function: str, *words: str) -> list[str]:
    """Return the command that calls a function of this file, with jax as users have it."""
    lines = (
        f"import sys, jax; from cli.test_distributed import {function} as f",
        "jax.config.update('jax_numpy_dtype_promotion', 'standard')",
        "jax.config.update('jax_numpy_rank_promotion', 'allow')",
        "f(*sys.argv[1:])",
    )
    return [sys.executable, "-c", "\n".join(lines), *words]


def alone_and_together(function: str, folder: Path, *words: str) -> list[str]:
    """Call a function in one process, and in two together in another folder; return what they print."""
    address = free_address()
    return run_together([
        (program(function, str(folder / "one"), *words), environment(folder)),
        *((program(function, str(folder / "two"), *words, "--distributed"),
           environment(folder, address, number)) for number in range(2)),
    ])  # fmt: skip


def assert_equal_cells(folder: Path, count: int) -> None:
    one, two = (read_cells(folder / name, column_versions()) for name in ("one", "two"))
    assert [cell.name for cell in one] == [cell.name for cell in two] and len(one) == count
    for mine, theirs in zip(one, two, strict=True):
        assert mine.columns.keys() == theirs.columns.keys()
        for name, values in mine.columns.items():
            if not name.startswith(("seconds", "cc")):  # times
                np.testing.assert_allclose(theirs.columns[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
        for name, values in mine.arrays.items():
            np.testing.assert_allclose(theirs.arrays[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def attack(run_dir: str, *more: str) -> None:
    words = ["attack", "the_model:linear", "--data", str(Path(run_dir).parent / "own.npz"), "--n", "9"]
    code = main([*words, "--attacks", "pgd", "deepfool", "--export", "npz", "--run-dir", run_dir, *more])
    assert code == 0


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """A folder with a function's model and its images."""
    make_npz(tmp_path / "own.npz")
    (tmp_path / "the_model.py").write_text(MODEL)
    return tmp_path


@pytest.mark.long
def test_two_processes_attack_as_one(linear):
    said = alone_and_together("attack", linear)
    assert "attacks.html" in said[1] and "attacks.html" not in said[2], "only the first one reports"
    assert_equal_cells(linear, 2)
    for cell in read_cells(linear / "one", column_versions()):
        a, b = (attacks.load(linear / which / "aes" / f"{cell.name}.npz") for which in ("one", "two"))
        np.testing.assert_allclose(a.x_adv, b.x_adv, rtol=1e-6, atol=1e-6)
        assert np.abs(a.x_adv - a.x).max() > 1e-3  # planted: not the clean images


def robustness(run_dir: str, *more: str) -> None:
    words = ["robustness", "the_model:linear", "--data", str(Path(run_dir).parent / "own.npz"), "--n", "9"]
    words += ["--eps", "0.1", "--version", "fast", "--steps", "10"]
    assert main([*words, "--run-dir", run_dir, *more]) == 0


@pytest.mark.long
def test_two_processes_judge_as_one(linear):
    said = alone_and_together("robustness", linear)
    assert "How robust is" in said[1] and "How robust is" not in said[2], "only the first one reports"
    one = read_cells(linear / "one", column_versions())
    assert_equal_cells(linear, len(one))
    assert len(one) >= 3


def evaluate(run_dir: str, *more: str) -> None:
    """Run several studies in one directory."""
    here, size = Path(run_dir).parent, "12" if more else "6"  # as many images per device
    os.chdir(here)
    common = ["--batch-size", size, "--run-dir", run_dir, *more]
    few = ["--n", "12", *common]
    assert (
        main(["evaluate", "attacks", "base", "--attacks", "fgsm", "llc", "--metrics", "mr", "l2", *few]) == 0
    )
    assert main(["evaluate", "detectors", "base", "--detectors", "fs", *common]) == 0
    brief = ["--steps", "2", "--restarts", "1", "--eps", "0.2"]
    assert main(["evaluate", "defenses", "base", "--defenses", "same", *brief, *few]) == 0
    words = ["evaluate", "security", "base", "--defenses", "same", "fs", "--attacks", "fgsm"]
    assert main([*words, "--budget", "2h", *few]) == 0
    words = [
        "evaluate",
        "transferability",
        "base",
        "--models",
        "other",
        "--attacks",
        "fgsm",
        "--matrix",
        "fgsm",
    ]
    assert main([*words, "--climbs", "bim", "--steps", "1", "--kappas", "0", *few]) == 0


@pytest.mark.long
def test_two_processes_evaluate_as_one(tmp_path):
    digits = data.load("digits")
    for name, seed in (("base", 0), ("same", 0), ("other", 1)):
        write_model(tmp_path / name, seed)
    write_card(tmp_path / "same")
    base = defenses.base_of(training.load_model(tmp_path / "base"), digits)
    card = {"name": "fs", "preset": "small", "base": "base"}
    detector = defenses.FS(bits=1, images=200, fpr=0.1)
    defenses.fit_into(tmp_path / "fs", detector, base, digits, key=jax.random.key(0), card=card)
    alone_and_together("evaluate", tmp_path)
    one = read_cells(tmp_path / "one", column_versions())
    assert_equal_cells(tmp_path, len(one))
    assert {"attack", "security", "transfer"} <= {str(cell.kind) for cell in one}


def train(folder: str, *more: str) -> None:
    """Train a base, a defense and a detector with few epochs."""
    short = replace(training.recipe("digits-small"), epochs=2, batch_size=300)
    few = PAT(eps=0.1, step_size=0.05, steps=2, changes=(("epochs", 1), ("batch_size", 300)))
    made: dict[str, Any] = {"pat": few, "fs": defenses.FS(bits=1, images=200, fpr=0.1)}
    training.recipe = lambda name: short
    defenses.preset = lambda name, *_, **more: made[name]
    base = f"{folder}/base"
    for words in (["train", "digits-small"], ["defend", "pat", base], ["defend", "fs", base]):
        where = Path(folder) / (words[1] if words[0] == "defend" else "base")
        assert not main([*words, "--run-dir", str(where), *more])


def weights(folder: Path) -> list[np.ndarray]:
    model = training.load_network(folder).model
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]


@pytest.mark.long
def test_two_processes_train_and_defend_as_one(tmp_path):
    said = alone_and_together("train", tmp_path)
    assert "test accuracy" in said[1] and "test accuracy" not in said[2], "only the first one reports"
    for name in ("base", "pat"):
        mine, theirs = (weights(tmp_path / which / name) for which in ("one", "two"))
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert np.abs(mine[0] - weights(tmp_path / "one" / "base")[0]).max() > 1e-3 or name == "base"
    kept = [np.load(tmp_path / which / "fs" / "detector.npz")["threshold"] for which in ("one", "two")]
    np.testing.assert_allclose(*kept, rtol=1e-5)
    assert defenses.load(tmp_path / "two" / "fs").defended is not None
    assert not list((tmp_path / "two").glob("*.fitting.json"))


def attack_and_fail(run_dir: str, when: str, *more: str) -> None:
    """Attack; the second process fails or dies alone in the second attack, before or after it computes."""
    outcomes.GRACE = 3.0
    whole = attack_jobs.attacked

    def failing(attack: Any, *given: Any, **named: Any) -> Any:
        fails = jax.process_index() == 1 and type(attack).__name__ == "DeepFool"
        if fails and when == "before":
            raise MemoryError("planted")
        if fails and when == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(attack, *given, **named)
        if fails:
            raise MemoryError("planted")
        return result

    attack_jobs.attacked = failing
    words = ["attack", "the_model:linear", "--data", str(Path(run_dir).parent / "own.npz"), "--n", "9"]
    code = main([*words, "--attacks", "pgd", "deepfool", "fgsm", "--run-dir", run_dir, *more])
    sys.exit(code)


@pytest.mark.long
def test_a_process_that_fails_at_the_end_fails_the_cell_in_all(linear):
    address = free_address()
    words = program("attack_and_fail", str(linear / "run"), "after", "--distributed")
    said = ended_together([(words, environment(linear, address, number)) for number in range(2)])
    assert [code for code, _, _ in said] == [1, 0]
    assert "process 1 of 2 failed (MemoryError: planted)" in said[0][2]
    store = Store(linear / "run", column_versions())
    done = [name for name in store.plan() if store.has_cell(name)]
    assert len(done) == 2 and len(store.plan()) == 3, "the run went on"


@pytest.mark.long
def test_a_process_that_fails_alone_ends_all(linear):
    address = free_address()
    words = program("attack_and_fail", str(linear / "run"), "before", "--distributed")
    said = ended_together([(words, environment(linear, address, number)) for number in range(2)])
    assert [code for code, _, _ in said] == [2, 2]
    for _, _, error in said:
        assert "error: process 1 of 2 failed alone (MemoryError: planted): the run ends" in error
    store = Store(linear / "run", column_versions())
    assert len([name for name in store.plan() if store.has_cell(name)]) == 1, "the first cell is kept"


@pytest.mark.long
def test_a_process_that_is_killed_ends_all(linear):
    address = free_address()
    words = program("attack_and_fail", str(linear / "run"), "killed", "--distributed")
    started = time.monotonic()
    said = ended_together([(words, environment(linear, address, number)) for number in range(2)])
    assert said[1][0] == -signal.SIGKILL and said[0][0] not in (0, 1), said[0]
    assert time.monotonic() - started < 300
    store = Store(linear / "run", column_versions())
    assert len([name for name in store.plan() if store.has_cell(name)]) == 1, "the first cell is kept"


def searches(run_dir: str, *more: str) -> None:
    words = ["attack", "the_model:linear", "--data", str(Path(run_dir).parent / "own.npz"), "--n", "9"]
    assert main([*words, "--attacks", "fgsm", "deepfool", "cw2", "--run-dir", run_dir, *more]) == 0


def kill_two(folder: Path, words: list[str], reached: Callable[[], bool]) -> None:
    """Start a command in two processes and kill both when something is reached, or when one has ended."""
    address = free_address()
    started = [
        subprocess.Popen(words, env=environment(folder, address, number), stderr=subprocess.DEVNULL)
        for number in range(2)
    ]
    while not reached() and all(child.poll() is None for child in started):
        time.sleep(0.05)
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.mark.long
def test_two_killed_processes_resume(linear):
    cells = linear / "two" / "cells"
    kill_two(linear, program("searches", str(linear / "two"), "--distributed"), lambda: any(cells.glob("*")))
    before = {path.name: path.stat().st_mtime_ns for path in (linear / "two" / "cells").iterdir()}
    assert 1 <= len(before) < 3, "killed between the first and the last cell"
    alone_and_together("searches", linear)
    assert_equal_cells(linear, 3)
    for name, written in before.items():
        assert (linear / "two" / "cells" / name).stat().st_mtime_ns == written, "not computed again"


def train_slowly(folder: str, *more: str) -> None:
    """Train a few epochs; ``more`` may say how many devices."""
    short = replace(training.recipe("digits-small"), epochs=4, batch_size=300)
    training.recipe = lambda name: short
    assert not main(["train", "digits-small", "--run-dir", folder, *more])


@pytest.mark.long
def test_two_killed_processes_resume_their_training(tmp_path):
    kept = tmp_path / "two.partial" / "epochs"
    kill_two(
        tmp_path, program("train_slowly", str(tmp_path / "two"), "--distributed"),
        lambda: any(path.name.isdigit() for path in kept.glob("*")),
    )  # fmt: skip
    assert not (tmp_path / "two").exists(), "killed before the end"
    alone_and_together("train_slowly", tmp_path)
    for a, b in zip(weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert len(training.load_network(tmp_path / "two").figures["history"]) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["attack", "nothing:here"],
        ["train", "digits-small"],
        ["defend", "fs", "nothing"],
        ["evaluate", "detectors", "nothing:here", "--detectors", "none"],
    ],
)
def test_options_that_exclude_each_other_are_refused(capsys, words):
    assert main([*words, "--distributed", "--dry-run"]) == 2
    assert "--distributed" in capsys.readouterr().err

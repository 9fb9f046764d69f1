"""One file and one line each: an attack, metric, data set, defense and detector of one's own, in a copy.

The copy is edited as CONTRIBUTING.md says, and used through the command line in a process of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepsec_jax import models, training
from deepsec_jax.training.checkpoints import save_model

ROOT = Path(__file__).resolve().parents[1]

METRIC = '''
"""Toy: the mean of the adversarial image."""

import jax
import jax.numpy as jnp

from deepsec_jax.metrics.record import AttackRecord, Column


def toy(record: AttackRecord) -> jax.Array:
    """Return the mean of each adversarial image [B]."""
    return jnp.mean(record.x_adv, axis=(1, 2, 3))


COLUMNS = (Column("toy", "toy", "Toy brightness", "mean of x_adv", "ours", "1", "neither", "all", toy),)
'''

DATA = '''
"""Toys: dark and bright squares."""

import numpy as np

from deepsec_jax.data.datasets import Dataset, Split


def toys() -> Dataset:
    """Dark and bright squares, drawn here."""
    rng = np.random.default_rng(0)
    labels = np.arange(700, dtype=np.int32) % 2
    images = (0.6 * rng.random((700, 6, 6, 1)) + 0.4 * labels[:, None, None, None]).astype(np.float32)
    train, test = Split(images[:600], labels[:600]), Split(images[600:], labels[600:])
    return Dataset("toys", train, test, ("dark", "bright"))
'''

MODEL = """
import jax.numpy as jnp
from jax.tree_util import Partial


def apply(weight, x):
    brightness = x.mean(axis=(1, 2, 3)) - 0.5
    return jnp.stack([-weight * brightness, weight * brightness], axis=1)


def model():
    return Partial(apply, jnp.float32(9.0))
"""


def shown(heading: str) -> str:
    """Return the file that CONTRIBUTING.md shows under a heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition(f"## {heading}\n")[2]
    block = re.search(r"   ```python\n(.*?)   ```", text, re.DOTALL)
    assert block is not None
    return re.sub(r"^   ", "", block[1], flags=re.MULTILINE)


def base_folder(folder: Path) -> Path:
    """Write a model folder of the toy data set; nothing is trained."""
    recipe = training.Recipe(
        name="toys", data="toys", model="small_cnn", epochs=1, batch_size=20, optimizer="sgd",
        learning_rate=0.1, schedule="constant",
    )  # fmt: skip
    network = models.build("small_cnn", (6, 6, 1), 2, seed=0)
    figures = {"test_accuracy": 0.5, "test_images": 100}
    save_model(folder, network, recipe, image_shape=(6, 6, 1), classes=2, figures=figures)
    return folder


def add_line(path: Path, before: str, added: str, imported: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(imported + "\n" + text.replace(before, before + added, 1))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    package = folder / "deepsec_jax"
    shutil.copytree(ROOT / "deepsec_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "attacks/grey.py").write_text(shown("Add an attack"))
    (package / "defenses/fog.py").write_text(shown("Add a defense"))
    (package / "defenses/glare.py").write_text(shown("Add a detector"))
    (package / "studies/brightness.py").write_text(shown("Add a study"))
    (package / "metrics/toy.py").write_text(METRIC)
    (package / "data/toys.py").write_text(DATA)
    (folder / "mine.py").write_text(MODEL)
    add_line(
        package / "attacks/table.py",
        '    "fgsm": FGSM,\n', '    "grey": Grey,\n',
        "from deepsec_jax.attacks.grey import Grey",
    )  # fmt: skip
    add_line(
        package / "defenses/table.py",
        '    "nat": NAT,\n', '    "fog": Fog,\n',
        "from deepsec_jax.defenses.fog import Fog",
    )  # fmt: skip
    add_line(
        package / "defenses/table.py",
        "DETECTORS: dict[str, Any] = {\n", '    "glare": Glare,\n',
        "from deepsec_jax.defenses.glare import Glare",
    )  # fmt: skip
    add_line(
        package / "studies/table.py", '"attacks": ATTACKS', ', "brightness": BRIGHTNESS',
        "from deepsec_jax.studies.brightness import BRIGHTNESS",
    )  # fmt: skip
    add_line(package / "metrics/table.py", "MODULES = (", "toy, ", "from deepsec_jax.metrics import toy")
    add_line(
        package / "data/table.py",
        '"digits": digits',
        ', "toys": toys',
        "from deepsec_jax.data.toys import toys",
    )
    return folder


RUNNER = """
import json, sys
from deepsec_jax.cli.main import main

for command in json.loads(sys.argv[1]):
    print(">", *command, flush=True)
    if main(command) != 0:
        raise SystemExit(f"failed: {command}")
"""


def deepsec(folder: Path, *commands: tuple[str, ...], then: str = "") -> str:
    """Run commands, and then a program, in one process of the copy; return what they printed."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'docs'}", "COLUMNS": "200"}
    command = [sys.executable, "-c", RUNNER + then, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_they_are_listed_run_and_reported(copy):
    run = (
        "evaluate", "attacks", "mine:model", "--data", "toys", "--attacks", "grey", "fgsm", "--n", "20",
        "--metrics", "mr", "toy", "l2", "--run-dir", "run",
    )  # fmt: skip
    tables = "import hooks; print(hooks.attacks_table(), hooks.metrics_table(), hooks.defenses_table())"
    said = deepsec(copy, ("list",), run, ("report", "run"), then=tables)
    assert re.search(r"grey +Towards mid-grey", said) and "mean of x_adv (ours)" in said
    assert re.search(r"toys +Dark and bright squares", said)
    assert re.search(r"fog +Training in noise", said)
    assert re.search(r"glare +Too bright to be true", said)
    assert "| `grey` |" in said and "| `toy` |" in said and "| `fog` |" in said
    page = "".join(path.read_text() for path in sorted((copy / "run").rglob("*.html")))
    table = "".join(path.read_text() for path in sorted((copy / "run").rglob("*.csv")))
    assert "Toy brightness" in page and "grey" in page and "toys" in page
    assert re.search(r"toys,grey,.*toy", table) or ("grey" in table and "toy" in table)


COUNTED = """
from pathlib import Path

import hooks
import mine
import numpy as np

from deepsec_jax import data
from deepsec_jax.runs.store import Store

test = data.load("toys").test
for by in (0.0, 0.3):
    found = np.asarray(mine.model()(np.clip(test.images + np.float32(by), 0, 1))).argmax(1)
    print("counted", by, (found == test.labels).mean())
print("starts", sum(entry["event"] == "start" for entry in Store(Path("lit")).read_log()))
print(hooks.studies_table())
"""


def test_a_study_has_a_command_and_every_format(copy):
    words = ("evaluate", "brightness", "mine:model", "--data", "toys", "--by", "0", "0.3", "--run-dir", "lit")
    report = ("report", "lit", "--no-times")
    said = deepsec(copy, (*words, "--dry-run"), words, words, report, then=COUNTED)
    assert said.count("missing ") == 2 and "lit: 2 of 2 cells finished" in said
    assert "starts 4" in said  # two cells and their columns, once
    assert "| `deepsec evaluate brightness` |" in said and "Brighten the test images" in said
    share = dict(re.findall(r"counted ([\d.]+) ([\d.]+)", said))
    files = {
        kind: (copy / f"lit/report/brightness.{kind}").read_text() for kind in ("csv", "json", "tex", "html")
    }
    (section,) = json.loads(files["json"])["sections"]
    means = {row["config"]["by"]: row["columns"]["bright"]["mean"] for row in section["brightness"]}
    assert means == {float(by): pytest.approx(float(value)) for by, value in share.items()}
    assert all("+0.3" in text and "Bright" in text for kind, text in files.items() if kind != "csv")
    assert re.search(r"bright,share,all,", files["csv"]) and "Brighter images" in said


@pytest.mark.long  # 30 s
def test_a_defense_is_fitted_evaluated_and_reported(copy):
    base = base_folder(copy / "base")
    evaluate = (
        "evaluate", "defenses", str(base), "--defenses", "fogged", "--n", "20", "--steps", "2",
        "--restarts", "1", "--run-dir", "defended",
    )  # fmt: skip
    deepsec(copy, ("defend", "fog", str(base), "--run-dir", "fogged"), evaluate, ("report", "defended"))
    page, table = ((copy / f"defended/report/defenses.{kind}").read_text() for kind in ("html", "csv"))
    assert "fog" in page and "fog" in table and "adaptive" in table


@pytest.mark.long  # 30 s; the defense's way above is the same one
def test_a_detector_is_fitted_evaluated_and_reported(copy):
    base = base_folder(copy / "watched")
    attack = (
        "evaluate", "attacks", str(base), "--attacks", "fgsm", "--n", "20", "--metrics", "mr",
        "--run-dir", "scored",
    )  # fmt: skip
    ask = (
        "evaluate", "detectors", str(base), "--detectors", "glared", "--sweep", "0.2", "--run-dir", "scored",
    )  # fmt: skip
    fit = ("defend", "glare", str(base), "--run-dir", "glared")
    deepsec(copy, fit, attack, ask, ("report", "scored"))
    page, table = ((copy / f"scored/report/detectors.{kind}").read_text() for kind in ("html", "csv"))
    assert "Too bright to be true" in page and "FPR 4 % on 60 clean images" in page
    assert re.search(r"attacks,glare-\S*detection-fgsm", table) and "sweep carried" in table

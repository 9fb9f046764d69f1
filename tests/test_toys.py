"""One file and one line each: an attack, a metric and a data set of one's own, in a copy of the package.

The copy is edited as CONTRIBUTING.md says, and used through the command line in a process of its own.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    labels = np.arange(200, dtype=np.int32) % 2
    images = (0.6 * rng.random((200, 6, 6, 1)) + 0.4 * labels[:, None, None, None]).astype(np.float32)
    train, test = Split(images[:100], labels[:100]), Split(images[100:], labels[100:])
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


def toy_attack() -> str:
    """Return the file that CONTRIBUTING.md shows."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"   ```python\n(.*?)   ```", text, re.DOTALL)
    assert block is not None
    return re.sub(r"^   ", "", block[1], flags=re.MULTILINE)


def add_line(path: Path, before: str, added: str, imported: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(imported + "\n" + text.replace(before, before + added, 1))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    package = folder / "deepsec_jax"
    shutil.copytree(ROOT / "deepsec_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "attacks/grey.py").write_text(toy_attack())
    (package / "metrics/toy.py").write_text(METRIC)
    (package / "data/toys.py").write_text(DATA)
    (folder / "mine.py").write_text(MODEL)
    add_line(
        package / "attacks/table.py",
        "classes; Any, for the card that each has\n", '    "grey": Grey,\n',
        "from deepsec_jax.attacks.grey import Grey",
    )  # fmt: skip
    add_line(package / "metrics/table.py", "MODULES = (", "toy, ", "from deepsec_jax.metrics import toy")
    add_line(
        package / "data/table.py",
        '"digits": digits',
        ', "toys": toys',
        "from deepsec_jax.data.toys import toys",
    )
    return folder


def deepsec(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "deepsec_jax.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_they_appear_in_the_lists_and_the_docs_table(copy):
    listed = deepsec(copy, "list")
    assert re.search(r"grey +Towards mid-grey", listed) and "mean of x_adv (ours)" in listed
    assert re.search(r"toys +Dark and bright squares", listed)
    program = "import hooks; print(hooks.attacks_table(), hooks.metrics_table())"
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{ROOT / 'docs'}"}
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "| `grey` |" in shown and "| `toy` |" in shown


def test_they_run_and_are_reported(copy):
    deepsec(
        copy, "evaluate", "attacks", "mine:model", "--data", "toys", "--attacks", "grey", "fgsm", "--n", "20",
        "--metrics", "mr", "toy", "l2", "--run-dir", "run",
    )  # fmt: skip
    deepsec(copy, "report", "run")
    page = "".join(path.read_text() for path in sorted((copy / "run").rglob("*.html")))
    table = "".join(path.read_text() for path in sorted((copy / "run").rglob("*.csv")))
    assert "Toy brightness" in page and "grey" in page and "toys" in page
    assert re.search(r"toys,grey,.*toy", table) or ("grey" in table and "toy" in table)

"""Imports point one way: a room of the house knows the rooms below it and none beside or above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepsec_jax

ROOT = Path(deepsec_jax.__file__).parent
FOUNDATION = (
    "protocols", "answers", "randomness", "pytree", "catalog", "progress", "memory", "convolutions",
    "compilation_cache", "platforms", "placement", "foreign", "batches", "declared", "field_checks",
    "nnx_modules", "jit", "model_traits", "hashing", "explicit_meshes", "loop_carries", "pixels",
)  # fmt: skip
PURE = (*FOUNDATION, "transforms")
LEARNING = (*PURE, "data", "models", "attacks", "metrics", "training", "defenses")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "protocols": (),
    "answers": ("protocols",),
    "randomness": ("protocols",),
    "pytree": ("protocols", "randomness", "field_checks"),
    "field_checks": (),
    "nnx_modules": ("pytree",),
    "jit": ("nnx_modules", "explicit_meshes"),
    "explicit_meshes": (),
    "loop_carries": (),
    "model_traits": ("randomness", "nnx_modules"),
    "hashing": ("randomness", "pytree"),
    "catalog": (),
    "progress": (),
    "memory": (),
    "convolutions": (),
    "platforms": (),
    "pixels": ("protocols",),
    "placement": ("randomness",),
    "compilation_cache": (),
    "foreign": (),
    "batches": ("placement",),
    "declared": ("catalog",),
    "data": FOUNDATION,
    "models": FOUNDATION,
    "attacks": FOUNDATION,
    "transforms": FOUNDATION,
    "metrics": PURE,
    "training": (*PURE, "data", "models", "attacks", "metrics"),
    "defenses": (*PURE, "data", "models", "attacks", "metrics", "training"),
    "pretrained": LEARNING,
    "runs": FOUNDATION,
    "tables": (*FOUNDATION, "metrics", "runs"),
    "evaluation": (*LEARNING, "runs"),
    "exchange": (*LEARNING, "evaluation", "runs"),
    "studies": (*LEARNING, "runs", "tables", "evaluation"),
    "cli": (*LEARNING, "pretrained", "runs", "tables", "evaluation", "studies"),
}
NEVER = ("tensorflow", "torch", "numba")  # TFDS is read without TensorFlow; peers are for benchmarks only


def modules_named(node: ast.AST, package: str) -> list[str]:
    """The full names that an import statement of a module in ``package`` mentions."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join(filter(None, [*parts[: len(parts) - node.level + 1], base]))
    return [f"{base}.{alias.name}" for alias in node.names]


def violations(root: Path) -> list[str]:
    """Every import under ``root`` that MAY_IMPORT and NEVER do not allow, wherever in a file it stands."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = ("deepsec_jax", *path.relative_to(root).with_suffix("").parts)
        package = ".".join(parts[:-1])
        room = parts[1]
        for node in ast.walk(ast.parse(path.read_text())):
            for name in modules_named(node, package):
                top, *rest = name.split(".")
                where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)} imports {name}"
                if top in NEVER:
                    found.append(where)
                elif top == "deepsec_jax" and rest and rest[0] in MAY_IMPORT:
                    if rest[0] != room and rest[0] not in MAY_IMPORT.get(room, ()):
                        found.append(where)
    return found


def test_imports_point_one_way():
    assert violations(ROOT) == []


def test_a_room_that_computes_nothing_needs_no_jax():
    code = (
        "import sys, deepsec_jax.runs.runner, deepsec_jax.runs.environment; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_room_has_its_place():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(MAY_IMPORT)


STUDIES = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("studies/*/__init__.py"))
FEW = ("runs", "evaluation", "tables", "studies", *STUDIES)
AT_MOST = 16
"""Modules of one package; more belong into packages of their own."""


@pytest.mark.parametrize("package", FEW)
def test_a_package_stays_small_enough_to_know(package):
    assert len(list((ROOT / package).glob("*.py"))) <= AT_MOST


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("attacks/bad.py", "from deepsec_jax.training import train"),
        ("attacks/bad.py", "from deepsec_jax import defenses"),
        ("attacks/bad.py", "def f():\n    import deepsec_jax.evaluation.judge"),
        ("attacks/bad.py", "from ..data import load"),
        ("attacks/bad.py", "from .. import metrics"),
        ("models/bad.py", "from deepsec_jax import data"),
        ("protocols.py", "from deepsec_jax.pytree import static"),
        ("__init__.py", "from deepsec_jax import attacks"),
        ("data/bad.py", "import tensorflow as tf"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, path, line):
    planted = tmp_path / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f'"""A room that reaches up."""\n\n{line}\n')
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("attacks/good.py", "from deepsec_jax.attacks.losses import logit_gap"),
        ("attacks/good.py", "from .losses import logit_gap\nfrom ..protocols import Images"),
        ("training/good.py", "from deepsec_jax import attacks, models\nimport jax"),
        ("data/good.py", "import tensorflow_datasets as tfds"),
        ("evaluation/good.py", "from deepsec_jax import __version__"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path, path, line):
    allowed = tmp_path / path
    allowed.parent.mkdir(exist_ok=True)
    allowed.write_text(f"{line}\n")
    assert violations(tmp_path) == []

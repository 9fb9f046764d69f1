"""Evaluation and tables know no particular attack or defense: ATTACKS and DEFENSES have the names."""

import ast
from pathlib import Path

import pytest

import deepsec_jax
from deepsec_jax import attacks
from deepsec_jax.attacks import ATTACKS
from deepsec_jax.defenses import DEFENSES
from deepsec_jax.protocols import Attack

ROOT = Path(deepsec_jax.__file__).parent
ROOMS = ("evaluation", "tables", "studies/attacks", "runs")
CLASSES = {kind.__name__ for kind in (*ATTACKS.values(), *DEFENSES.values())} | {
    name for name, kind in vars(attacks).items() if isinstance(kind, type) and issubclass(kind, Attack)
}
KEYS = {*ATTACKS, *DEFENSES}

MADE_OF = {
    # The attack that a threat model asks for is made of these.
    "evaluation/adaptive.py", "evaluation/cascade.py", "evaluation/defense_cells.py",
    "evaluation/defense_jobs.py",
    # The paper's Table VII is a sweep of FGSM.
    "evaluation/detector_jobs.py",
}  # fmt: skip
"""Files of attacks that an evaluation makes itself.  No other file has a name; other studies may have."""


def names_in(source: str) -> set[str]:
    """Return the names of attacks and defenses in a module: as variables, imports, attributes and texts."""
    tree, found = ast.parse(source), set()
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.alias | ast.Attribute):
            found.add(
                node.id if isinstance(node, ast.Name) else getattr(node, "name", getattr(node, "attr", ""))
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found.add(node.value.partition("@")[0])
    return found & (CLASSES | KEYS)


def named() -> dict[str, set[str]]:
    """Return file -> names of attacks and defenses in it."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return {str(path.relative_to(ROOT)): names_in(path.read_text()) for path in paths}


def test_evaluation_and_tables_name_no_attack_and_no_defense():
    assert {file: names for file, names in named().items() if names and file not in MADE_OF} == {}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from deepsec_jax.attacks import JSMA", "JSMA"),
        ("isinstance(attack, attacks.DeepFool)", "DeepFool"),
        ("ORDER = (('fgsm', 'bim'),)", "fgsm"),
        ("rows['pgd@strong']", "pgd"),
        ("if name == 'pat': pass", "pat"),
        ("def f():\n    from deepsec_jax.defenses import PAT", "PAT"),
    ],
)
def test_a_planted_name_is_seen(source, name):
    assert name in names_in(source)
    assert names_in(f'"""As {name} does it."""\n\n\ndef f():\n    """Not only {name}."""\n') == set()

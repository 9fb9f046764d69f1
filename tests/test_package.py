"""The package itself: sub-packages by attribute, and nothing imported before it is used."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import explains_itself

import deepsec_jax
from deepsec_jax import attacks, defenses, models


def test_sub_packages_are_attributes():
    program = (
        "import sys, deepsec_jax; assert 'jax' not in sys.modules; deepsec_jax.attacks.PGD; deepsec_jax.data"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert {"attacks", "evaluation", "models"} <= set(dir(deepsec_jax))


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="attacks, data"):
        _ = deepsec_jax.atacks


PACKAGES = (
    "attacks",
    "data",
    "defenses",
    "evaluation",
    "metrics",
    "models",
    "tables",
    "training",
    "transforms",
)


def imported_names(package) -> set[str]:
    """The names that an ``__init__.py`` imports from its own package."""
    tree = ast.parse(Path(package.__file__).read_text())
    return {
        alias.asname or alias.name
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(package.__name__)
        for alias in statement.names
    }


def faults(package) -> list[str]:
    """What is wrong with a package's public list."""
    public = list(package.__all__)
    above = set(getattr(package, "ABOVE", ()))  # imported at first use
    found = [f"{name} is not there" for name in public if not hasattr(package, name)]
    found += [f"{name} is imported and not public" for name in imported_names(package) - set(public)]
    found += [f"{name} is public and not imported" for name in set(public) - imported_names(package) - above]
    if dir(package) != sorted(public):
        found.append(f"dir() has {sorted(set(dir(package)) ^ set(public))}")
    for name in public:
        thing = getattr(package, name, None)
        says = inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isfunction(thing)
        if says and not explains_itself(thing):
            found.append(f"{name} has no docstring")
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_shows_what_is_meant_for_readers(name):
    package = importlib.import_module(f"deepsec_jax.{name}")
    assert package.__doc__ and faults(package) == []
    namespace: dict = {}
    exec(f"from deepsec_jax.{name} import *", namespace)
    assert set(package.__all__) <= set(namespace)


def test_faults_of_a_public_list_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "planted_package"
    folder.mkdir()
    (folder / "parts.py").write_text(
        "def bare(): pass\ndef said():\n    'It does.'\ndef more():\n    'It is.'\n"
    )
    (folder / "__init__.py").write_text(
        "from planted_package.parts import bare, more, said\n__all__ = ['bare', 'lost', 'said']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = faults(importlib.import_module("planted_package"))
    assert found[:3] == [
        "lost is not there",
        "more is imported and not public",
        "lost is public and not imported",
    ]
    assert found[3].startswith("dir() has") and found[4:] == ["bare has no docstring"]


def test_all_attacks_defenses_and_networks_are_public():
    for package, table in (
        (attacks, attacks.ATTACKS),
        (defenses, defenses.DEFENSES),
        (models, models.MODELS),
    ):
        classes = {getattr(each, "func", each).__name__ for each in table.values()}
        assert classes <= set(package.__all__)

"""The documentation says what is there: public names explain themselves, examples in the pages run."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

import jax
import pytest

import deepsec_jax
from deepsec_jax import training

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(deepsec_jax.__path__, "deepsec_jax.")
    if not module.name.rpartition(".")[2].startswith("_")
)


def explains_itself(thing) -> bool:
    """Whether somebody wrote a docstring; the signature that dataclasses put in its place is none."""
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return bool(text) and not text.startswith(f"{getattr(thing, '__name__', '')}(")


def undocumented(module) -> list[str]:
    """The public functions, classes and methods that a module defines without a docstring."""
    found = [] if module.__doc__ else [module.__name__]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            found += [] if explains_itself(value) else [f"{module.__name__}.{name}"]
        if inspect.isclass(value):
            for member_name, member in vars(value).items():
                if isinstance(member, staticmethod | classmethod):
                    member = member.__func__
                method = inspect.isfunction(member) or isinstance(member, property)
                if method and not member_name.startswith("_") and not explains_itself(member):
                    # The methods that flax.struct puts into a dataclass are documented by flax.
                    if getattr(member, "__module__", module.__name__) == module.__name__:
                        found.append(f"{module.__name__}.{name}.{member_name}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name):
    assert undocumented(importlib.import_module(name)) == []


def test_a_missing_docstring_is_found(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text(
        "from dataclasses import dataclass\n"
        "def bare(): pass\n"
        "@dataclass\nclass Bare:\n    x: int = 0\n    def method(self): pass\n"
        "def _private(): pass\n"
        "def said():\n    'It does.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ["planted", "planted.bare", "planted.Bare", "planted.Bare.method"]
    assert undocumented(importlib.import_module("planted")) == names


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language in a page, each with its first line's number."""
    text = page.read_text()
    return [
        (text[: match.start(1)].count("\n") + 1, match[1])
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_in_pages_runs(page, tmp_path, monkeypatch):
    """All blocks of a page run in order, as a reader would paste them (training made short)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(training.RECIPES, "digits-small", replace(training.recipe("digits-small"), epochs=2))
    strict = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # as in the reader's own process
    jax.config.update("jax_numpy_rank_promotion", "allow")
    try:
        namespace: dict = {"__name__": "page"}
        for line, block in blocks(page, "python"):
            exec(compile("\n" * line + block, str(page), "exec"), namespace)
    finally:
        jax.config.update("jax_numpy_dtype_promotion", strict[0])
        jax.config.update("jax_numpy_rank_promotion", strict[1])


def test_readme_is_among_the_pages_that_run():
    assert CHECKOUT / "README.md" in WITH_PYTHON


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_in_pages_exist(page):
    import deepsec_jax.cli

    verbs = {module.name for module in pkgutil.iter_modules(deepsec_jax.cli.__path__)} - {"main", "__main__"}
    for _, block in blocks(page, "sh"):
        for verb in re.findall(r"^deepsec (\S+)", block, re.MULTILINE):
            assert verb in verbs | {"--help"}
        for script in re.findall(r"^(?:python )?((?:scripts|examples|benchmarks)/\S+)", block, re.MULTILINE):
            assert (CHECKOUT / script).exists(), script
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target

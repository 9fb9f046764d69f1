"""The documentation says what is there: public names explain themselves, examples in the pages run."""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import pytest

import deepsec_jax
from deepsec_jax import attacks, data, metrics, training

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
EVERY_PAGE = [*PAGES, *sorted((CHECKOUT / "benchmarks").rglob("*.md"))]
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
                if member_name in inspect.get_annotations(value):
                    continue  # the default of a field, such as a function
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
    (tmp_path / "without_docstrings.py").write_text(
        "from dataclasses import dataclass\n"
        "def bare(): pass\n"
        "@dataclass\nclass Bare:\n    x: int = 0\n    def method(self): pass\n"
        "def _private(): pass\n"
        "def said():\n    'It does.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = "without_docstrings"
    names = [module, f"{module}.bare", f"{module}.Bare", f"{module}.Bare.method"]
    assert undocumented(importlib.import_module(module)) == names


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language in a page, each with the number of lines before it."""
    text = page.read_text()
    return [
        (text[: match.start(2)].count("\n"), textwrap.dedent(match[2]))
        for match in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    ]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


SHORT = replace(training.recipe("digits-small"), epochs=2)


@contextmanager
def as_for_a_reader() -> Iterator[None]:
    """Without the strict promotion of the tests, as in a reader's own process."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A model folder of the short recipe, which the pages find where they would train their own."""
    folder = tmp_path_factory.mktemp("docs") / "digits-small"
    with as_for_a_reader():
        training.train(SHORT, data.load("digits"), folder)
    return folder


def run_blocks(page: Path) -> None:
    """Run a page's Python blocks one after another, in one namespace."""
    namespace: dict = {"__name__": "page"}
    with as_for_a_reader():
        for line, block in blocks(page, "python"):
            exec(compile("\n" * line + block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_in_pages_runs(page, trained, tmp_path, monkeypatch):
    """All blocks of a page run in order, as a reader would paste them (training made short)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(training.RECIPES, "digits-small", SHORT)
    shutil.copytree(trained, tmp_path / "runs" / "models" / "digits-small")
    run_blocks(page)


def test_a_page_that_lies_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Try\n\n```python\nfrom deepsec_jax.attacks import Teleport\n```\n")
    with pytest.raises(ImportError, match="Teleport"):
        run_blocks(page)


def test_architecture_marks_the_attacks_that_stand():
    rows = re.findall(
        r"^\| (?:untargeted|targeted|other) attacks .*$",
        (CHECKOUT / "ARCHITECTURE.md").read_text(),
        re.MULTILINE,
    )
    marked = [name for row in rows for bold in re.findall(r"\*\*(.+?)\*\*", row) for name in bold.split()]
    assert len(rows) == 3 and marked == list(attacks.ATTACKS)


@pytest.fixture
def hooks():
    """What mkdocs calls while it builds the pages."""
    spec = importlib.util.spec_from_file_location("hooks", CHECKOUT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_in_pages_come_from_the_code(hooks, monkeypatch):
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    shown = hooks.on_page_markdown(page)
    assert all(f"| `{name}` |" in shown and f"| `{name}` |" not in page for name in metrics.METRICS)
    toy = replace(metrics.METRICS["l2"], name="toy", formula="a toy's | figure")
    monkeypatch.setitem(metrics.METRICS, "toy", toy)
    assert "| `toy` |" in hooks.on_page_markdown(page) and "| `toy` |" not in shown
    assert all(
        f"| `{name}` |" in hooks.on_page_markdown("<!-- table: attacks -->") for name in attacks.ATTACKS
    )


def test_references_in_docstrings_are_shown_as_code(hooks):
    html = "see :class:<code>~deepsec_jax.attacks.PGD</code>, :data:<code>ATTACKS</code>: <code>x</code>"
    shown = "see <code>deepsec_jax.attacks.PGD</code>, <code>ATTACKS</code>: <code>x</code>"
    assert hooks.on_page_content(html) == shown


def test_reference_has_every_public_module(hooks):
    listed = re.findall(r"^::: (.+)$", hooks.on_page_markdown("<!-- reference -->"), re.MULTILINE)
    assert listed == MODULES


def test_every_page_is_in_the_navigation():
    named = re.findall(r": (\S+\.md)$", (CHECKOUT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in (CHECKOUT / "docs").glob("*.md"))


def test_readme_is_among_the_pages_that_run():
    assert CHECKOUT / "README.md" in WITH_PYTHON


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_in_pages_exist(page):
    from deepsec_jax.cli.main import VERBS

    for _, block in blocks(page, "sh"):
        for verb in re.findall(r"^deepsec (\S+)", block, re.MULTILINE):
            assert verb in {*VERBS, "--help"}
        for script in re.findall(r"^(?:python )?((?:scripts|examples|benchmarks)/\S+)", block, re.MULTILINE):
            assert (CHECKOUT / script).exists(), script
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def cut_tables(text: str) -> list[int]:
    """Lines that begin a run of table rows without a header and the rule under it: a table was cut there."""
    lines, found, fenced = text.split("\n"), [], False
    for number, line in enumerate(lines):
        fenced ^= line.lstrip().startswith("```")
        begins = line.lstrip().startswith("|") and not (number and lines[number - 1].lstrip().startswith("|"))
        rule = lines[number + 1].strip() if number + 1 < len(lines) else ""
        if begins and not fenced and not re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", rule):
            found.append(number + 1)
    return found


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_no_table_is_cut_by_a_blank_line(page):
    assert cut_tables(page.read_text()) == []


def test_a_cut_table_is_found():
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert cut_tables(table) == [] and cut_tables(f"text\n\n{table}") == []
    assert cut_tables(f"{table}\n| 3 | 4 |\n| 5 | 6 |\n") == [5]
    assert cut_tables(f"```text\n{table}\n| 3 | 4 |\n```\n") == []


MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
needs_mkdocs = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install '.[docs]', or scripts/docs"
)


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build pages as ``scripts/docs`` does; any warning, such as a dead link, is an error."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)],
        cwd=CHECKOUT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@needs_mkdocs
def test_the_pages_build(tmp_path):
    done = build(CHECKOUT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "deepsec_jax.attacks.pgd" in html


@needs_mkdocs
def test_a_dead_link_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[elsewhere](#no-such-heading)\n")
    settings = (CHECKOUT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("nav:")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: planted\n{validation}")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0 and "no-such-heading" in done.stderr

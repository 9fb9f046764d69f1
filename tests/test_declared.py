"""What is read from the source code equals what importing it gives, and needs no jax."""

import subprocess
import sys
from dataclasses import asdict, fields

import pytest

from deepsec_jax import attacks, data, declared, defenses, metrics, models, training
from deepsec_jax.cli.evaluate import verbs
from deepsec_jax.cli.list import metric_columns
from deepsec_jax.studies.table import STUDIES

SLOW = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "scipy", "sklearn", "skimage", "matplotlib",
        "PIL", "tensorflow_datasets", "jinja2")  # fmt: skip


WORDS = [
    ["list"], ["list", "attacks"], ["--help"], ["attack", "--help"], ["evaluate", "--help"],
    ["evaluate", "attacks", "--help"], ["evaluate", "defenses", "--help"],
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS)
def test_lists_and_help_import_nothing_slow(words):
    program = (
        "import sys\n"
        "from deepsec_jax.cli.main import main\n"
        "try:\n"
        f"    main({words})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print('imported', [name for name in sys.argv[1:] if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, *SLOW], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported []"


@pytest.mark.parametrize(
    ("module", "name", "imported"),
    [
        ("deepsec_jax.attacks.table", "ATTACKS", attacks.ATTACKS),
        ("deepsec_jax.defenses.table", "DEFENSES", defenses.DEFENSES),
    ],
)
def test_cards_are_the_classes_own(module, name, imported):
    said = {key: definition.card for key, definition in declared.table(module, name).items()}
    assert list(said) == list(imported)
    assert said == {key: algorithm.card for key, algorithm in imported.items()}


@pytest.mark.parametrize(
    ("module", "name", "imported"),
    [
        ("deepsec_jax.models.table", "MODELS", models.MODELS),
        ("deepsec_jax.data.table", "DATASETS", data.DATASETS),
    ],
)
def test_first_lines_are_the_docstrings_own(module, name, imported):
    said = {key: definition.first_line for key, definition in declared.table(module, name).items()}
    docs = {key: getattr(each, "func", each).__doc__ or "" for key, each in imported.items()}
    assert list(said) == list(docs) and all(said.values())
    assert said == {key: doc.strip().partition("\n")[0] for key, doc in docs.items()}


def test_recipes_are_the_modules_own():
    assert declared.records("deepsec_jax.training.recipe", "ROWS") == [
        asdict(recipe) for recipe in training.RECIPES.values()
    ]


def test_columns_are_the_tables_own():
    imported = [
        *metrics.METRICS.values(), *metrics.DEFENSE_METRICS.values(), *metrics.DETECTION_METRICS.values()
    ]  # fmt: skip
    said = metric_columns()
    assert [column["name"] for column in said] == [column.name for column in imported]
    for read, column in zip(said, imported, strict=True):
        every = {field.name: getattr(column, field.name) for field in fields(column)}
        assert set(every) - set(read) <= {"values", "bounds"}  # functions, and what math.inf stands in
        assert read == {name: every[name] for name in read}


def test_options_are_the_studies_own():
    assert verbs() == {name: study.options for name, study in STUDIES.items()}


def test_a_column_whose_program_is_missing_is_not_listed(monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "ric_guetzli" in [column["name"] for column in metric_columns()]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "ric_guetzli" not in [column["name"] for column in metric_columns()]


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Read modules from a folder in place of the package's."""

    def plant(text: str) -> str:
        (tmp_path / "planted.py").write_text(text)
        declared._parsed.cache_clear()
        monkeypatch.setattr(declared, "_ROOT", tmp_path)
        return "deepsec_jax.planted"

    yield plant
    declared._parsed.cache_clear()


CARD = (
    "class Card:\n    name: str\n    title: str\n    reference: str\n    goal: str\n    kind: str\n"
    "    budget: str | None = None\n\n"
)


def test_a_declaration_is_read(planted):
    module = planted(
        CARD + "class A:\n    'The first.\\n\\nMore.'\n    card: ClassVar[Card] = Card('A', 'a' 'b', 'r', "
        "goal='g', kind='k')\n\nOLD = {'a': A}\nNEW: dict = {**OLD, 'b': partial(A, n=2)}"
    )
    found = declared.table(module, "NEW")
    assert list(found) == ["a", "b"] and found["b"].first_line == "The first."
    assert found["a"].card.title == "ab" and found["a"].card.budget is None


def test_an_argument_is_found_where_it_is_defined(planted):
    module = planted("class Options:\n    pass\nONE: Study = Study('one', options=Options)\nT = {'one': ONE}")
    assert declared.given(module, "T", "options") == {"one": (module, "Options")}
    with pytest.raises(declared.DeclarationError, match="ONE: write it as a call with jobs=NAME"):
        declared.given(module, "T", "jobs")
    with pytest.raises(declared.DeclarationError, match=r"make\(\) is no name"):
        declared.given(planted("T = {'one': make()}"), "T", "options")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CARD + "class A:\n    pass\nT = {'a': A}", r"planted.A: write card = Card"),
        (CARD + "class A:\n    card = Card(NAME, 't', 'r', 'g', 'k')\nT = {'a': A}", "literal fields"),
        ("T = dict(a=1)", 'T: write {"name": Class'),
        ("T = {'a': A}", "neither defines A nor imports it"),
        ("class A:\n    pass\nT = {NAME: A}", "NAME is not literal"),
        ("X = 1", "module assigns no T"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(planted, text, message):
    with pytest.raises(declared.DeclarationError, match=message) as refused:
        _ = [definition.card for definition in declared.table(planted(text), "T").values()]
    assert "\n" not in str(refused.value)

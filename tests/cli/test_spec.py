"""Options from a TOML file: names and types of the verb's dataclass, and the command line goes first."""

from pathlib import Path

import pytest

from deepsec_jax.cli import InputError, evaluate, spec
from deepsec_jax.cli.attack import Attack
from deepsec_jax.cli.main import VERBS, _parse
from deepsec_jax.cli.train import Train
from deepsec_jax.studies.attacks.options import Options as AttackOptions

EVERYTHING = """
model = "runs/model"
data = "own.npz"
data_dir = "sets"
attacks = ["fgsm", "pgd"]
n = 12
seed = 3
preset = "strong"
batch_size = "auto"
metrics = []
run_dir = "runs/here"
"""


@pytest.fixture
def toml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("spec.toml").write_text(text)
        return ["--spec", "spec.toml"]

    return write


def test_a_file_says_what_flags_would(toml):
    from_file = _parse(["evaluate", "attacks", *toml(EVERYTHING)])
    flags = (
        "evaluate attacks runs/model --data own.npz --data-dir sets --attacks fgsm pgd --n 12 --seed 3 "
        "--preset strong --batch-size auto --run-dir runs/here --spec spec.toml"
    )
    assert from_file == _parse(flags.split())
    assert isinstance(from_file, AttackOptions) and from_file.run_dir == Path("runs/here")
    assert _parse(["train", *toml('recipe = "digits-small"')]).recipe == "digits-small"


def test_the_command_line_goes_first(toml):
    file = toml(EVERYTHING)
    verb = _parse(["evaluate", "attacks", "other", *file, "--n", "5", "--attacks", "bim"])
    assert (verb.model, verb.n, verb.attacks, verb.seed) == ("other", 5, ("bim",), 3)
    verb = _parse(["evaluate", "attacks", "--spec=spec.toml", "--model", "another", "--dry-run"])
    assert (verb.model, verb.dry_run, verb.preset) == ("another", True, "strong")


def test_what_must_be_given_may_stand_in_either_place(toml, capsys):
    file = toml("n = 12")
    assert _parse(["attack", "here", *file]) == Attack(model="here", n=12, spec=Path("spec.toml"))
    with pytest.raises(SystemExit):
        _parse(["attack", *file])
    assert "MODEL" in capsys.readouterr().err


def test_a_model_may_be_named_by_flag_anywhere():
    assert _parse(["attack", "--n", "5", "--model", "a:b", "--attacks", "bim"]) == Attack(
        model="a:b", n=5, attacks=("bim",)
    )
    assert _parse(["evaluate", "attacks", "--model=m"]) == AttackOptions(model="m")
    assert _parse(["train", "r"]) == Train("r")


def test_every_computing_verb_has_a_spec_a_run_dir_and_a_dry_run():
    for verb in (VERBS["train"], VERBS["attack"], *evaluate.verbs().values()):
        assert {"spec", "run_dir", "dry_run"} <= set(verb.__dataclass_fields__)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("n = 'many'", "n must be an integer, got 'many'"),
        ("n = true", "n must be an integer, got True"),
        ("n = 1.5", "n must be an integer, got 1.5"),
        ("attacks = 'pgd'", "attacks must be a list, each a string, got 'pgd'"),
        ("attacks = ['pgd', 1]", "attacks must be a list, each a string, got ['pgd', 1]"),
        ("preset = 'papr'", """preset must be "paper" or "strong", got 'papr'"""),
        ("batch_size = 'large'", """batch_size must be an integer or "auto", got 'large'"""),
        ("run_dir = 3", "run_dir must be a path in quotes, got 3"),
        ("data = ['a']", "data must be a string, got ['a']"),
        ("atacks = ['pgd']", "unknown option 'atacks'. Did you mean attacks"),
        ("batch-size = 3", "unknown option 'batch-size'. Did you mean batch_size"),
        ("spec = 'other.toml'", "unknown option 'spec'"),
        ("[attacks]\nn = 3", "attacks must be a list"),
        ("[evaluate]\nn = 3", "unknown option 'evaluate'"),
        ("n = ", "is no TOML"),
        ("n = 1\nn = 2", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(toml, line, words):
    _, path = toml(line)
    with pytest.raises(InputError) as caught:
        spec.read(Path(path), AttackOptions)
    assert words in str(caught.value) and str(caught.value).startswith(("spec.toml", "cannot read"))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*No such file.*give --spec a TOML file"):
        spec.read(tmp_path / "none.toml", AttackOptions)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no TOML"):
        spec.read(tmp_path / "binary.toml", AttackOptions)

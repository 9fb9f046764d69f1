"""The table of deliberate faults stays true, and scripts/mutants says of each whether tests notice."""

import subprocess
import sys
from pathlib import Path

import mutants
import pytest
from mutants import Mutant, complaints, planted, read

DRIVER = """
import sys
from pathlib import Path
import mutants

mutants.PRELOADED, root = (), Path({root!r})
if __name__ == "__main__":
    {last}
"""


def test_every_mutant_can_be_planted_in_one_place_and_names_tests_that_exist():
    table = read()
    assert complaints(table.values()) == []
    assert len(table) >= 60
    assert {Path(mutant.file).parts[0] for mutant in table.values()} >= {
        "attacks", "metrics", "defenses", "evaluation"
    }  # fmt: skip
    changes = [(mutant.file, mutant.old, mutant.new) for mutant in table.values()]
    assert len(set(changes)) == len(changes), "two names for one fault"


def test_a_text_that_moved_or_stands_twice_is_seen():
    fault = Mutant("sum", "sums.py", "a + b", "a - b", ("test_sums.py",))
    assert planted("def plus(a, b):\n    return a + b\n", fault).endswith("a - b\n")
    for source, times in (("return b + a", 0), ("a + b, a + b", 2)):
        with pytest.raises(ValueError, match=f"its old text stands {times} times in sums.py, not once"):
            planted(source, fault)
    with pytest.raises(ValueError, match="is the old one"):
        planted("a + b", Mutant("same", "sums.py", "a + b", "a + b", ()))


def test_the_copy_has_every_package_and_no_results(tmp_path):
    for folder in ("runs/models", "deepsec_jax/runs", "build", "tests/__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    assert mutants.left_out(tmp_path, str(tmp_path), ["runs", "build", "deepsec_jax", ".git"]) == {
        "runs", "build", ".git"
    }  # fmt: skip
    inside = mutants.left_out(tmp_path, str(tmp_path / "deepsec_jax"), ["runs", "__pycache__"])
    assert inside == {"__pycache__"}


SUMS = """
def plus(a, b):
    return a + b

def half(a):
    return a / 2

def end(n):
    while n:
        n -= 1
"""
TESTS = """
from deepsec_jax.sums import end, half, plus

def test_plus():
    assert plus(2, 2) == 4

def test_half():
    assert half(0) == 0

def test_end():
    end(3)
"""
TABLE = """
[minus]
file = "sums.py"
old = "a + b"
new = "a - b"
tests = ["test_sums.py"]

[third]
file = "sums.py"
old = "a / 2"
new = "a / 3"
tests = ["test_sums.py"]

[gone]
file = "sums.py"
old = "def half(a):"
new = "def third(a):"
tests = ["test_sums.py"]
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout of three functions, their tests, and a table of faults."""
    root = tmp_path / "root"
    for path, text in (
        ("deepsec_jax/__init__.py", ""), ("deepsec_jax/sums.py", SUMS), ("tests/test_sums.py", TESTS),
        ("tests/mutants.toml", TABLE),
    ):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def driven(root, last, *arguments):
    """Run a script of these last lines, and return its status and what it printed."""
    driver = root.parent / "driver.py"
    driver.write_text(DRIVER.format(root=str(root), last=last))
    found = subprocess.run(
        [sys.executable, str(driver), *arguments], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(mutants.__file__).parent), "PATH": ""},
    )  # fmt: skip
    return found.returncode, (found.stdout + found.stderr).splitlines()


def tried(root, *arguments):
    return driven(root, "sys.exit(mutants.main(sys.argv[1:], root=root))", *arguments)


def test_what_is_killed_and_what_survives_is_said_once_and_kept(checkout):
    status, lines = tried(checkout)
    assert [line.split()[0] for line in lines[:3]] == ["killed", "SURVIVED", "BROKEN"]
    assert lines[0].endswith("s  minus  test_sums.py::test_plus") and "error during collection" in lines[2]
    assert status == 1 and lines[3:] == ["left: third", "left: gone", "killed 1 of 3"]
    assert (checkout / "deepsec_jax" / "sums.py").read_text() == SUMS
    assert tried(checkout, "mi*") == (0, [lines[0], "killed 1 of 1"])  # to the second: it is not run again
    (checkout / "tests" / "test_sums.py").write_text(TESTS.replace("== 4", "== 5"))
    status, lines = tried(checkout, "minus")
    assert status == 1 and lines == ["test_sums.py fail without a mutant: test_sums.py::test_plus"]


def test_names_and_their_near_misses(checkout):
    assert tried(checkout, "--list", "t*", "g*") == (0, ["third", "gone"])
    assert tried(checkout, "plus") == (1, ["no mutant plus: scripts/mutants --list names them"])


def test_a_loop_without_an_end_is_stopped_and_counts_as_noticed(checkout):
    (checkout / "deepsec_jax" / "sums.py").write_text(SUMS.replace("n -= 1", "pass"))
    last = "print(mutants.run_tests(root, ['test_sums.py::test_end'], '.', limit=4.0).by)"
    assert driven(checkout, last) == (0, ["no end in 4 s"])

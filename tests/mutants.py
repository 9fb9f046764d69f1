"""Plant the named faults of mutants.toml, one at a time, and see whether the nearest tests notice.

    scripts/mutants                     # all; goes on where it was interrupted
    scripts/mutants uap-mean 'rfgsm-*'  # some
    scripts/mutants --list

A table, and not mutmut or cosmic-ray: those change every operator of every line, which here is thousands of
runs of half a minute, and never make the faults that matter, such as an expectation that is left out or a
threshold that is set on the wrong images.
"""

import argparse
import ast
import fnmatch
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "pytest", "jax.numpy", "flax.nnx", "optax", "orbax.checkpoint", "scipy.stats", "scipy.optimize",
    "sklearn.linear_model", "skimage.metrics", "matplotlib.figure", "PIL.Image", "tensorflow_datasets",
)  # fmt: skip
LIMIT = 900.0
"""Seconds after which the tests of a mutant are stopped: a loop that never ends is noticed, too."""

NOT_COPIED = (
    ".git", ".venv", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", "__pycache__",
    "*.egg-info",
)  # fmt: skip
NOT_COPIED_FROM_THE_TOP = ("runs", "site", "build", "dist")  # deepsec_jax/runs is a package


_FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Mutant:
    """A deliberate fault.

    Attributes:
        name: in the table and on the command line.
        file: below deepsec_jax/.
        old: text that stands in it exactly once.
        new: what stands there instead.
        tests: files below tests/, or ids in them, that must fail then.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What the tests said of a mutant.

    Attributes:
        said: ``killed``, ``SURVIVED``, or ``BROKEN`` where the tests did not even start.
        seconds: wall time.
        by: the test that failed first, or what went wrong.
    """

    said: str
    seconds: float
    by: str


def read(root: Path = ROOT) -> dict[str, Mutant]:
    """Return the mutants by name, in the table's order."""
    table = tomllib.loads((root / "tests" / "mutants.toml").read_text("utf-8"))
    return {
        name: Mutant(name, entry["file"], entry["old"], entry["new"], tuple(entry["tests"]))
        for name, entry in table.items()
    }


def planted(source: str, mutant: Mutant) -> str:
    """Return the source with the fault in it.

    Raises:
        ValueError: the old text does not stand in it exactly once, or nothing would change.
    """
    count = source.count(mutant.old)
    if count != 1:
        raise ValueError(f"its old text stands {count} times in {mutant.file}, not once")
    if mutant.old == mutant.new:
        raise ValueError("its new text is the old one")
    return source.replace(mutant.old, mutant.new)


def complaints(mutants: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """Return what is wrong with the table: texts that moved, mutants that do not parse, tests that went."""
    found = []
    for mutant in mutants:
        path = root / "deepsec_jax" / mutant.file
        try:
            source = planted(path.read_text("utf-8"), mutant)
            tomllib.loads(source) if path.suffix == ".toml" else ast.parse(source)
        except (OSError, ValueError, SyntaxError) as error:
            found.append(f"{mutant.name}: {error}")
        for test in mutant.tests:
            file, _, name = test.partition("::")
            path = root / "tests" / file
            if not path.is_file() or (
                name and f"def {name.partition('[')[0]}(" not in path.read_text("utf-8")
            ):
                found.append(f"{mutant.name}: no test {test}")
        if not mutant.tests:
            found.append(f"{mutant.name}: names no tests")
    return found


def run_tests(checkout: Path, tests: Sequence[str], programs: str, limit: float = LIMIT) -> Verdict:
    """Run tests of a checkout in a process of their own, up to the first that fails.

    The process is forked from one that has imported jax and other libraries, but nothing of the checkout:
    that is most of the time of a short test.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        log = Path(folder) / "log"
        process = _FORKS.Process(target=_pytest, args=(checkout, tests, programs, log))
        started = time.perf_counter()
        process.start()
        process.join(limit)
        ended = process.exitcode is not None
        if not ended:  # with the processes that its tests have started
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        seconds, output = time.perf_counter() - started, log.read_text("utf-8", "replace")
    if not ended:
        return Verdict("killed", seconds, f"no end in {limit:g} s")
    if process.exitcode == 0:
        return Verdict("SURVIVED", seconds, "")
    failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
    if process.exitcode == 1 and failed:
        return Verdict("killed", seconds, failed[1].removeprefix("tests/"))
    return Verdict("BROKEN", seconds, " ".join(output.split())[-300:])


def _pytest(checkout: Path, tests: Sequence[str], programs: str, log: Path) -> None:
    """Be the process that runs tests: exits with pytest's status."""
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(checkout)
    os.environ |= {"PYTHONPATH": str(checkout), "JAX_COMPILATION_CACHE_DIR": programs}
    os.environ.pop("PYTHONWARNINGS", None)
    # Bytecode is known by size and second, which a mutant and the next may share.
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    sys.path.insert(0, str(checkout))
    import pytest

    import deepsec_jax

    if not Path(deepsec_jax.__file__).is_relative_to(checkout):
        print(f"the copy is not what is imported, but {deepsec_jax.__file__}", flush=True)
        os._exit(3)
    options = ["-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *(f"tests/{test}" for test in tests)])
    sys.stdout.flush()
    os._exit(int(status))


class Results:
    """Verdicts of earlier calls, in a file: those on the same sources and tests are taken over."""

    def __init__(self, path: Path, sources: str, *, again: bool = False):
        self.path, self.sources = path, sources
        self.known: dict[str, Any] = {}
        if path.is_file() and not again:
            kept = json.loads(path.read_text())
            self.known = kept["verdicts"] if kept["sources"] == sources else {}

    def get(self, *about: Any) -> Verdict | None:
        """Return what was said of this, or None."""
        known = self.known.get(_digest(about))
        return None if known is None else Verdict(*known)

    def put(self, verdict: Verdict, *about: Any) -> None:
        """Keep what was said of this."""
        self.known[_digest(about)] = astuple(verdict)
        self.path.parent.mkdir(exist_ok=True)
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps({"sources": self.sources, "verdicts": self.known}))
        aside.replace(self.path)


def _digest(about: Any) -> str:
    return hashlib.sha256(repr(about).encode()).hexdigest()


def digest_of(root: Path) -> str:
    """Return a hash over all that a verdict depends on, the table apart."""
    digest = hashlib.sha256()
    for folder in ("deepsec_jax", "tests"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.stem != "mutants":
                digest.update(f"{path.relative_to(root)} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def chosen(mutants: Mapping[str, Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """Return the mutants whose names match; all without a pattern.

    Raises:
        SystemExit: a pattern that no name matches.
    """
    for pattern in patterns:
        if not fnmatch.filter(mutants, pattern):
            raise SystemExit(f"no mutant {pattern}: scripts/mutants --list names them")
    return [
        mutant
        for name, mutant in mutants.items()
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def left_out(root: Path, folder: str, names: list[str]) -> set[str]:
    """Return the names in a folder of the checkout that its copy does without."""
    found = set(shutil.ignore_patterns(*NOT_COPIED)(folder, names))
    return found | ({*NOT_COPIED_FROM_THE_TOP} & {*names} if Path(folder) == Path(root) else set())


def try_all(mutants: Sequence[Mutant], root: Path, results: Results) -> dict[str, Verdict]:
    """Return name -> verdict, printed as they come; nothing is run that was run before.

    Raises:
        SystemExit: the tests fail without any mutant, so that failing says nothing.
    """
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(root / ".pytest_cache" / "jax")
    verdicts = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        checkout = Path(folder).resolve() / "checkout"
        shutil.copytree(root, checkout, ignore=lambda folder, names: left_out(root, folder, names))
        for mutant in mutants:
            verdict = results.get(mutant)
            if verdict is None:
                verdict = _tried(mutant, checkout, results, programs)
                results.put(verdict, mutant)
            verdicts[mutant.name] = verdict
            print(f"{verdict.said:9}{verdict.seconds:6.0f} s  {mutant.name}  {verdict.by}", flush=True)
    return verdicts


def _tried(mutant: Mutant, checkout: Path, results: Results, programs: str) -> Verdict:
    """Return what the tests say of a mutant; they must pass without it."""
    if results.get("sound", mutant.tests) is None:
        sound = run_tests(checkout, mutant.tests, programs)
        if sound.said != "SURVIVED":
            raise SystemExit(f"{', '.join(mutant.tests)} fail without a mutant: {sound.by}")
        results.put(sound, "sound", mutant.tests)
    path = checkout / "deepsec_jax" / mutant.file
    source = path.read_text("utf-8")
    try:
        path.write_text(planted(source, mutant), "utf-8")
        return run_tests(checkout, mutant.tests, programs)
    finally:
        path.write_text(source, "utf-8")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Try the mutants that were named, print ``killed K of N``, and return 1 unless all were."""
    parser = argparse.ArgumentParser(
        "scripts/mutants", description="Plant deliberate faults and see whether the nearest tests notice."
    )
    parser.add_argument(
        "names", nargs="*", help="mutants of tests/mutants.toml, * and ? allowed; default all"
    )
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--again", action="store_true", help="forget what earlier calls have found")
    options = parser.parse_args(arguments)
    mutants = chosen(read(root), options.names)
    if options.list:
        print("\n".join(mutant.name for mutant in mutants))
        return 0
    if wrong := complaints(mutants, root):
        raise SystemExit("\n".join(wrong))
    os.environ["PYTHONWARNINGS"] = "ignore:os.fork:RuntimeWarning"  # jax warns; it has not begun to work yet
    _FORKS.set_forkserver_preload(list(PRELOADED))
    results = Results(root / ".pytest_cache" / "mutants.json", digest_of(root), again=options.again)
    verdicts = try_all(mutants, root, results)
    left = [name for name, verdict in verdicts.items() if verdict.said != "killed"]
    print(
        "".join(f"left: {name}\n" for name in left) + f"killed {len(mutants) - len(left)} of {len(mutants)}"
    )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

"""A plan of ``deepsec reproduce``: stages of deepsec commands, read from a TOML file.

``plans/digits.toml`` describes the format.
"""

import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from deepsec_jax.cli import InputError
from deepsec_jax.pretrained import pretrained_dir

_FIELDS: dict[str, Any] = {"name": str, "purpose": str, "run": list, "each": list, "hours": (int, float)}


@dataclass(frozen=True)
class Stage:
    """A part of the work.

    Attributes:
        name: for ``--only``.
        purpose: one sentence.
        commands: the words of each deepsec command, without ``deepsec``.
        hours: about how long it takes on two cores; None if nobody has written it down.
    """

    name: str
    purpose: str
    commands: tuple[tuple[str, ...], ...]
    hours: float | None = None


@dataclass(frozen=True)
class Plan:
    """What ``deepsec reproduce`` does.

    Attributes:
        title: of the site.
        note: what its figures may be taken for.
        stages: in the order of the work.
        processes: how many processes share the work on one machine, unless the user says otherwise.
    """

    title: str
    note: str
    stages: tuple[Stage, ...]
    processes: int = 1


def plans() -> list[str]:
    """Return the names of the plans that the package has."""
    folder = resources.files("deepsec_jax.cli").joinpath("plans")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read(name: str, here: Path, data_dir: Path | None, preset: str | None = None) -> Plan:
    """Return a plan with its paths filled in.

    Args:
        name: of one of :func:`plans`, or the path of a TOML file.
        here: run directory.
        data_dir: folder of TFDS sets; None for TFDS's own.
        preset: hyperparameters of the defenses; None for the plan's.

    Raises:
        InputError: no such plan, or it is not valid.
    """
    if name in plans():
        text = resources.files("deepsec_jax.cli").joinpath("plans", f"{name}.toml").read_text("utf-8")
    elif name.endswith(".toml") and Path(name).is_file():
        text = Path(name).read_text("utf-8")
    else:
        raise InputError(f"no plan {name!r}: give {', '.join(plans())}, or the path of a TOML file")
    try:
        return _plan(tomllib.loads(text), here, data_dir, preset)
    except (KeyError, TypeError, ValueError) as error:
        said = f"unknown name {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            f"plan {name} is not valid ({said}): see deepsec_jax/cli/plans/digits.toml"
        ) from None


def _plan(spec: Mapping[str, Any], here: Path, data_dir: Path | None, preset: str | None) -> Plan:
    groups: Mapping[str, Sequence[str]] = spec.get("groups", {})
    given = {"here": here, "pretrained": pretrained_dir(), "preset": preset or spec.get("preset", "small")}
    model = str(spec["model"]).format(**given)
    several = {"{data}": ["--data-dir", str(data_dir)] if data_dir else []}
    for group, names in groups.items():
        several[f"{{{group}}}"] = [str(here / "defenses" / name) for name in names]

    def command(line: str, name: str) -> tuple[str, ...]:
        filled: list[str] = []
        for word in shlex.split(line):
            if word in several:
                filled += several[word]
            else:
                filled.append(word.format(**given, model=model, name=name))
        return tuple(filled)

    def commands(stage: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
        for name in [name for group in stage.get("each", ()) for name in groups[group]] or [""]:
            yield from (command(line, name) for line in stage["run"])

    stages = []
    for stage in spec["stage"]:
        for field, value in stage.items():
            if not isinstance(value, _FIELDS[field]):
                raise ValueError(f"{field} = {value!r}")
        stages.append(Stage(stage["name"], stage["purpose"], tuple(commands(stage)), stage.get("hours")))
    processes = spec.get("processes", 1)
    if not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes = {processes!r}")
    return Plan(spec["title"], " ".join(spec["note"].split()), tuple(stages), processes)

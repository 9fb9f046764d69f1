"""Parse a command line to one verb, and report known errors in one line."""

import functools
import operator
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

import tyro

from deepsec_jax.cli import evaluate, spec
from deepsec_jax.cli.attack import Attack
from deepsec_jax.cli.defend import Defend
from deepsec_jax.cli.demo import Demo
from deepsec_jax.cli.list import List
from deepsec_jax.cli.prepare import Prepare
from deepsec_jax.cli.remarks import Remarks
from deepsec_jax.cli.report import Report
from deepsec_jax.cli.reproduce import Reproduce
from deepsec_jax.cli.robustness import Robustness
from deepsec_jax.cli.train import Train
from deepsec_jax.compilation_cache import keep_programs
from deepsec_jax.convolutions import convolve_for_gradients
from deepsec_jax.memory import collect_seldom, keep_freed_memory

VERBS: dict[str, Any] = {
    "train": Train,
    "attack": Attack,
    "robustness": Robustness,
    "defend": Defend,
    "evaluate": evaluate.Evaluate,
    "report": Report,
    "remarks": Remarks,
    "demo": Demo,
    "reproduce": Reproduce,
    "list": List,
    "prepare": Prepare,
}
"""Every verb by name, in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``deepsec`` with these arguments (default: the process's) and return the exit code.

    Returns:
        0; 1 if a part of the work failed and the rest is done; 2 for invalid input; 130 if interrupted.
    """
    keep_freed_memory()
    collect_seldom()
    convolve_for_gradients()
    keep_programs()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(_parse(words))
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {_system_error(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "deepsec_jax":
            raise  # a bug keeps its traceback; our own errors name the remedy
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(verb: Any) -> int:
    """Run a verb, or a study from its options."""
    return (verb.run() if hasattr(verb, "run") else evaluate.evaluate(verb)) or 0


def _parse(words: list[str]) -> Any:
    """Return the verb with its options; options of a spec file are the defaults."""
    verbs, program, spoken = VERBS, "deepsec", words
    if words[:1] == ["evaluate"]:
        verbs, program, spoken = evaluate.verbs(), "deepsec evaluate", words[1:]
        study = next((word for word in spoken if word in verbs), None)  # options may precede it
        if study is not None:
            spoken.remove(study)
            spoken.insert(0, study)
    chosen = verbs.get(spoken[0]) if spoken else None
    default = None
    if chosen is not None:
        spoken = _model_first(spoken, chosen)
        default = spec.defaults(chosen, spoken)
    given = {} if default is None else {"default": default}
    choices: list[Any] = [
        Annotated[verb, tyro.conf.subcommand(name=name, **(given if verb is chosen else {}))]
        for name, verb in verbs.items()
    ]
    any_of_them: Any = functools.reduce(operator.or_, choices)
    return tyro.cli(
        any_of_them,
        prog=program,
        description="Attack, defend and evaluate image classifiers, on JAX.",
        args=spoken,
    )


def _model_first(words: list[str], verb: Any) -> list[str]:
    """Return ``VERB --model M`` as ``VERB M``; both forms are allowed."""
    model = spec.option("--model", words)
    if model is None or "model" not in {field.name for field in fields(verb)}:
        return words
    place = next(index for index, word in enumerate(words) if word.startswith("--model"))
    rest = words[:place] + words[place + (1 if "=" in words[place] else 2) :]
    first = next((index for index, word in enumerate(rest) if word.startswith("-")), len(rest))
    return [*rest[:first], model, *rest[first:]]


def _system_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}: check that the path is correct and writable, with free space"

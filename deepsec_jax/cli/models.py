"""From what the command line calls a model to a checked one."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepsec_jax.cli import InputError

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset
    from deepsec_jax.defenses import ModelFolder


@dataclass(frozen=True)
class Loaded:
    """A model as the command line names it.

    Attributes:
        model: what answers, a pytree callable in evaluation mode; of a defended model's folder that model.
        about: ``name`` (what tables and folders call it), and what else a model folder says: ``network``,
            ``recipe`` (all of it), ``trained_on`` (the data's digest), ``test_accuracy``, ``defense``.
        facts: the same in words for a page, label -> text.
        data: name of its data set, or what --data says.
        folder: what the folder holds; None of a function's model.
    """

    model: Any
    about: dict[str, Any]
    facts: dict[str, str]
    data: str
    folder: "ModelFolder | None" = None

    @property
    def warnings(self) -> list[str]:
        """What to know before it is attacked, one sentence each."""
        from deepsec_jax.studies.model_words import not_adaptive

        return not_adaptive(self.about)

    def warn(self) -> None:
        """Say so, before compute is spent."""
        for warning in self.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def load(name: str, data: str | None) -> Loaded:
    """Return the model of a folder, or of a function ``package.module:function``.

    A folder that ``deepsec defend`` has written gives the defended model.

    Args:
        name: folder or function.
        data: data set; default the one that a folder's model was trained on.

    Raises:
        InputError: no such function, or no data set named.
        CheckpointError: no model in the folder, or a damaged one.
        DefenseError: a damaged or unfinished defense.
    """
    if ":" in name and not Path(name).exists():
        if data is None:
            raise InputError(f"{name} carries no data set: name one with --data")
        return Loaded(_call(name), {"name": name}, {"Model": name}, data)
    from deepsec_jax import defenses
    from deepsec_jax.studies.model_words import about_folder, facts_of

    found = defenses.load(name)
    about = about_folder(found, Path(name).resolve().name)
    return Loaded(found.model, about, facts_of(found), data or found.saved.recipe.data, found)


def load_base(name: str, data: str | None) -> Loaded:
    """Return a model that defenses are built on: one that is its network and nothing more.

    A network whose training was its defense may get another defense around it.

    Args:
        name: folder or function.
        data: data set; default the one that a folder's model was trained on.

    Raises:
        InputError: as :func:`load`, or the folder's model is more than its network.
    """
    loaded = load(name, data)
    if loaded.folder is not None and not loaded.folder.is_network:
        card = loaded.about["defense"]
        raise InputError(
            f"{name} is {card['base']} defended by {card['class']}, which is more than a network: give "
            f"{card['base']}'s folder, or a defense that is a network alone"
        )
    return loaded


def _call(name: str) -> Any:
    """Return what ``package.module:function`` returns; the current folder is searched too."""
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise InputError(
            f"cannot import {module_name or 'nothing'} ({_line(error)}): give package.module:function"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{module_name} has no function {function_name!r} that returns a model")
    try:
        return function()
    except Exception as error:
        raise InputError(
            f"{name}() failed ({_line(error)}): it must return a model when called without arguments"
        ) from error


def check(model: Any, dataset: "Dataset") -> int:
    """Return the number of a model's classes, after :func:`deepsec_jax.evaluation.under_test.check_fits`."""
    from deepsec_jax.evaluation.under_test import check_fits

    return check_fits(model, dataset)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

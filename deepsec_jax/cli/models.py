"""Load and check a model by its command-line name."""

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepsec_jax.cli import InputError

if TYPE_CHECKING:
    import jax

    from deepsec_jax.defenses import ModelFolder


@dataclass(frozen=True)
class Loaded:
    """A model named on the command line.

    Attributes:
        model: a callable pytree in evaluation mode; for the folder of a defense the defended model.
        about: ``name`` (in tables and folders), and further entries of a model folder: ``network``,
            ``recipe`` (all of it), ``trained_on`` (the data's digest), ``test_accuracy``, ``defense``.
        data: name of its data set, or the value of --data.
        folder: contents of the folder; None for a function's model.
    """

    model: Any
    about: dict[str, Any]
    data: str
    folder: "ModelFolder | None" = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images of the folder's model; None for a function's model."""
        return None if self.folder is None else self.folder.saved.image_size

    @property
    def warnings(self) -> list[str]:
        """Warnings before it is attacked, one sentence each."""
        from deepsec_jax.studies.model_words import not_adaptive

        return not_adaptive(self.about)

    def warn(self) -> None:
        """Print them before any computation."""
        for warning in self.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def load(name: str, data: str | None) -> Loaded:
    """Return the model of a folder, or of a function ``package.module:function``.

    From a folder of ``deepsec defend`` it returns the defended model.

    Args:
        name: folder or function.
        data: data set; default that of the folder's training.

    Raises:
        InputError: no such function, or no data set named.
        CheckpointError: no model in the folder, or a damaged one.
        DefenseError: a damaged or unfinished defense.
    """
    if ":" in name and not Path(name).exists():
        if data is None:
            raise InputError(f"{name} carries no data set: name one with --data")
        return Loaded(_call(name), {"name": name}, data)
    from deepsec_jax import defenses
    from deepsec_jax.studies.model_words import about_folder

    found = defenses.load(name)
    about = about_folder(found, Path(name).resolve().name)
    return Loaded(found.model, about, data or found.saved.recipe.data, found)


def join_processes() -> None:
    """Find the other processes of ``jax.distributed``, once.

    On SLURM, TPU pods and other clusters jax finds them itself.  Elsewhere the environment names them:
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Raises:
        InputError: there are no other processes to be found.
    """
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            num_processes=_number("JAX_NUM_PROCESSES"), process_id=_number("JAX_PROCESS_ID")
        )
    except (RuntimeError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise InputError(
            f"--distributed finds no other processes ({line}): start it by srun or on a TPU pod, or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def _number(variable: str) -> int | None:
    """Return a number of the environment; None if it is not set."""
    text = os.environ.get(variable)
    return None if text is None else int(text)


def placed(model: Any, devices: int | Literal["all"], *, distributed: bool = False) -> Any:
    """Return the model on this many devices of the machine, or on those of all processes.

    Raises:
        InputError: the machine has fewer.
    """
    import jax

    from deepsec_jax.placement import on_devices

    if distributed:
        return on_devices(model, jax.devices())
    there = used(devices)
    return model if len(jax.local_devices()) == 1 else on_devices(model, there)


def used(devices: int | Literal["all"]) -> "list[jax.Device]":
    """Return this many devices of the machine.

    Raises:
        InputError: the machine has fewer.
    """
    import jax

    there: list[jax.Device] = jax.local_devices()
    if devices != "all" and devices > len(there):
        raise InputError(f"--devices is {devices}, but jax sees {len(there)} here: give fewer, or all")
    return there if devices == "all" else there[:devices]


def load_base(name: str, data: str | None) -> Loaded:
    """Return an undefended base for a defense: a model that is only its network.

    A network that was defended by its training may get another defense around it.

    Args:
        name: folder or function.
        data: data set; default that of the folder's training.

    Raises:
        InputError: as for :func:`load`, or the folder's model is more than its network.
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
    """Return the result of ``package.module:function``; the current folder is on the search path."""
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise any error
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


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

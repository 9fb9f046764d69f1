"""An evaluation in one call, in memory: ``deepsec evaluate attacks`` without a run directory."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from deepsec_jax import data
from deepsec_jax.attacks import ATTACKS as KNOWN
from deepsec_jax.attacks import preset as attack_preset
from deepsec_jax.attacks.model_checks import check_model
from deepsec_jax.data import Dataset, Split
from deepsec_jax.defenses import load as load_folder
from deepsec_jax.evaluation.under_test import check_fits
from deepsec_jax.progress import progress
from deepsec_jax.protocols import Attack, Classifier, Key
from deepsec_jax.randomness import typed_key
from deepsec_jax.runs.in_memory import compute_cells
from deepsec_jax.runs.store import Store
from deepsec_jax.studies.attacks.jobs import jobs_of
from deepsec_jax.studies.attacks.tables import ATTACKS
from deepsec_jax.studies.model_words import about_folder
from deepsec_jax.studies.results import Results
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.verdict.options import Options as RobustnessOptions
from deepsec_jax.studies.verdict.tables import ROBUSTNESS_STUDY

OWN = "own"
"""The kind of preset of an attack with its own hyperparameters."""


def evaluate(
    model: Classifier | str | os.PathLike[str],
    attacks: str | Attack | Sequence[str | Attack] | Mapping[str, str | Attack],
    dataset: str | Dataset | tuple[Any, Any],
    *,
    n: int,
    key: Key | int,
    preset: str = "paper",
    metrics: Sequence[str] = (),
    batch_size: int = 128,
    model_name: str | None = None,
    times: bool = True,
    show_progress: bool = False,
) -> Results:
    """Attack a model, measure success and metrics independently, and return the tables.

        results = evaluation.evaluate(model, ["pgd", CW2(steps=100)], "digits", n=100, key=jax.random.key(0))
        print(results)
        results.figure("pgd", "mr").summary.mean

    All attacks run on the same ``n`` correctly classified test images.  The numbers are those of ``deepsec
    evaluate attacks --seed S`` for ``key=jax.random.key(S)``.  Nothing is written; for a run that can resume
    use the command line.

    Args:
        model: a callable pytree in evaluation mode; or a model folder, also of a defense.
        attacks: names of preset rows (``pgd``, ``fgsm@0.5``), attacks, or both; a dict gives them names.
        dataset: a name or path that :func:`deepsec_jax.data.load` takes, a
            :class:`~deepsec_jax.data.Dataset`, or test images [N, H, W, C] and labels [N].
        n: number of images to attack.
        key: of the drawn images, the targets and all random numbers; an int is a seed.
        preset: ``paper`` or ``strong``: the hyperparameters of names.
        metrics: columns of ``metrics.METRICS``; default all that apply to the model.
        batch_size: images per call.
        model_name: name of the model in tables; default that of its class or folder.
        times: whether tables keep values that depend on the clock and the machine's load.
        show_progress: whether to show progress on stderr.

    Raises:
        UnknownName: no such attack, preset, data set or metric, with near matches.
        DataError: fewer than ``n`` images are classified correctly.
        ValueError: two attacks with one name; an invalid model or images.
        Exception: an error of an attack, with a note that names the attack.
    """
    images = _dataset(dataset)
    made, kind = _attacks(attacks, images, preset)
    if not made:
        raise ValueError("there is no attack: give names, attacks, or a dict of them")
    run = _run(model, images, batch_size, model_name)
    jobs = jobs_of(made, run, n=n, seed=seed_of(key), preset=kind, metrics=tuple(metrics))
    with progress("evaluate", n * len(made)) if show_progress else nullcontext(_quiet) as advance:
        cells = compute_cells(jobs, advance)
    return Results(ATTACKS, tuple(cells), times)


def robustness(
    model: Classifier | str | os.PathLike[str],
    dataset: str | Dataset | tuple[Any, Any],
    *,
    n: int = 200,
    key: Key | int = 0,
    norm: Literal["linf", "l2"] = "linf",
    eps: float | None = None,
    version: Literal["standard", "fast"] = "standard",
    steps: int = 200,
    batch_size: int = 128,
    model_name: str | None = None,
    times: bool = True,
    show_progress: bool = False,
) -> Results:
    """Answer how robust a model is: ``deepsec robustness`` without a run directory.

        results = evaluation.robustness(model, "digits", eps=0.1)
        for topic, text in results.sections[0].record["verdict"].items():
            print(topic, text)

    Args:
        model: a callable pytree in evaluation mode; or a model folder.  A folder of a defended model is
            attacked through its surrogate.
        dataset: as for :func:`evaluate`.
        n: number of random test images, whether they are classified correctly or not.
        key: of the drawn images and the attacks; an int is a seed.
        norm: of the change.
        eps: radius; default 0.3 in L-inf and 1.5 in L2 for grey images, 8/255 and 0.5 for colour images.
        version: AutoAttack: ``standard``, or ``fast`` with fewer gradients.
        steps: of the search for the smallest change.
        batch_size: images per call.
        model_name: name of the model in tables; default that of its class or folder.
        times: whether tables keep values that depend on the clock and the machine's load.
        show_progress: whether to show progress on stderr.

    Raises:
        DataError: no such data set.
        ValueError: an invalid option, model or images.
    """
    run = _run(model, _dataset(dataset), batch_size, model_name)
    options = RobustnessOptions(
        run.about["name"], norm=norm, eps=None if eps is None else repr(float(eps)), n=n, seed=seed_of(key),
        version=version, steps=steps,
    )  # fmt: skip
    options.check()
    jobs = ROBUSTNESS_STUDY.jobs(options, run)
    total = sum(job.images for job in jobs)
    with progress("evaluate", total) if show_progress else nullcontext(_quiet) as advance:
        cells = compute_cells(jobs, advance)
    return Results(ROBUSTNESS_STUDY, tuple(cells), times)


def _run(
    model: Classifier | str | os.PathLike[str], images: Dataset, batch_size: int, name: str | None
) -> Run:
    """Return a checked model with its images; nothing is written."""
    about: dict[str, Any] = {"name": name or type(model).__name__}
    surrogate = None
    if isinstance(model, str | os.PathLike):
        folder = load_folder(model)
        about = about_folder(folder, name or Path(model).resolve().name)
        model = folder.model
        if folder.defended is not None and folder.defended.surrogate is not model:
            surrogate = folder.defended.surrogate
    check_model(model)
    classes = check_fits(model, images)
    return Run(
        model, about, images, classes, Store(Path()), batch_size,
        warn=lambda warning: None,  # findings are warnings of the tables
        keeps=False, surrogate=surrogate,
    )  # fmt: skip


def _quiet(images: int, name: str) -> None:
    del images, name


def _dataset(given: str | Dataset | tuple[Any, Any]) -> Dataset:
    if isinstance(given, Dataset):
        return given
    if isinstance(given, str):
        return data.load(given)
    images, labels = (np.asarray(part) for part in given)
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images {list(images.shape)} and labels {list(labels.shape)} must be [N, H, W, C] and [N]"
        )
    classes = tuple(str(index) for index in range(int(labels.max(initial=0)) + 1))
    return Dataset("images", Split(images[:0], labels[:0]), Split(images, labels), classes)


def _attacks(given: Any, dataset: Dataset, preset: str) -> tuple[dict[str, Attack], str]:
    """Return name -> attack, and the source of the hyperparameters."""
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
        names = [each if isinstance(each, str) else _name(each) for each in several]
        twice = {name for name in names if names.count(name) > 1}
        pairs = [
            (name if isinstance(each, str) or name not in twice else repr(each), each)
            for name, each in zip(names, several, strict=True)
        ]
    made: dict[str, Attack] = {}
    for name, each in pairs:
        if name in made:
            raise ValueError(f"two attacks are called {name!r}: give each once, or a dict with names")
        made[name] = (
            attack_preset(each, dataset.name, preset, channels=dataset.image_shape[2])
            if isinstance(each, str) else each
        )  # fmt: skip
    named = all(isinstance(each, str) and each == name for name, each in pairs)
    return made, preset if named else OWN


def _name(attack: Attack) -> str:
    """Return the table's name of an attack, or its ``repr``."""
    return next((name for name, known in KNOWN.items() if type(attack) is known), repr(attack))


def seed_of(key: Key | int) -> int:
    """Return the seed of a key: ``S`` for ``jax.random.key(S)``, otherwise one derived from all its words.

    Args:
        key: one key, or a seed.

    Raises:
        TypeError: several keys, or not a key.
    """
    if isinstance(key, int):
        return key
    words = [int(word) for word in np.asarray(jax.random.key_data(typed_key(key))).ravel()]
    if len(words) != 2:
        raise TypeError(f"key must be one key, got {np.shape(key)}")
    high, low = words
    return low if high == 0 and low < 2**31 else (high * 0x9E3779B1 ^ low) % 2**31

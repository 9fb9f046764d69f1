"""Whether a run may carry the title of a table of the paper: only if everything is the paper's.

Names are not sufficient.  The recipe is compared field by field, the data by digests, and every attack and
defense setting by setting with the paper's preset.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepsec_jax import attacks, defenses
from deepsec_jax.attacks.settings import class_of, hyperparameters
from deepsec_jax.catalog import UnknownName
from deepsec_jax.defenses.base import changed_recipe
from deepsec_jax.defenses.folders import settings_of
from deepsec_jax.tables.published import Published
from deepsec_jax.training import RECIPES, Recipe

Card = Mapping[str, Any]

DIGESTS = {
    "mnist": ("f54321beefcc63da", "test-1cdae03be9312fe5"),
    "cifar10": ("0b45a39ad90f05fb", "test-cbf6a66a8eed585f"),
}
"""Data set -> ``Dataset.digest`` and ``sample.split_name`` of TFDS (mnist 3.0.1, cifar10 3.0.2)."""

LABELS = ("name", "source", "seed")
"""Fields of a recipe that are not compared."""

CLASS, TRAINING = "class", "training"
"""Entries among the changed settings for another class, or another training."""


@dataclass(frozen=True)
class Used:
    """The model, data and settings of a section of a report.

    Attributes:
        data: name of the data set.
        model: ``model`` of its configs, see :func:`deepsec_jax.studies.model_words.about_folder`.
        images: ``images`` of its configs, the hash of the test split; None if missing.
        kinds: text before a kind of preset, e.g. ``the defenses are of preset`` -> that kind.
        changed: text before names, e.g. ``settings of`` -> the paper's names of attacks or defenses with
            other settings than their preset's.
    """

    data: str
    model: Any
    images: str | None
    kinds: Mapping[str, str]
    changed: Mapping[str, Sequence[str]]


def why_untitled(paper: Published, used: Used) -> str:
    """Return why a run does not carry the paper's title, one sentence; empty if it does.

    Args:
        paper: the paper's numbers.
        used: by the run.
    """
    if not paper.title(used.data):
        return f"The paper has no {paper.covers} {used.data}."
    found = [
        *_of_model(used.model, paper.model, paper.said(used.data, "recipe"), used.data),
        *_of_images(used),
        *(f"{words} {kind}, not the paper's" for words, kind in used.kinds.items() if kind != "paper"),
        *(
            f"{words} {', '.join(names)} are not the paper's"
            for words, names in used.changed.items()
            if names
        ),
    ]
    return f"Not {paper.said(used.data, 'table')}: {', and '.join(found)}." if found else ""


def _of_model(model: Any, about: str, wanted: str, data: str) -> list[str]:
    """Return the differences of a model from the paper's: recipe, training data, a defense."""
    said = model if isinstance(model, Mapping) else {}
    recipe = said.get("recipe")
    if recipe is None:
        return [f"{about} does not say that it was trained by the paper's recipe"]
    if not isinstance(recipe, Mapping):
        return [f"the run keeps no more than the name of {about}'s recipe, {recipe}: evaluate it again"]
    found = []
    if differing := differences(recipe, RECIPES[wanted].to_dict(), LABELS):
        named = recipe.get("name")
        is_of = f"of a recipe {named} that is" if named == wanted else f"of recipe {named},"
        found.append(f"{about} is {is_of} not {_of(named, wanted)} ({'; '.join(differing)})")
    digest = said.get("trained_on")
    if digest is None:
        found.append(f"{about} does not say on which images it was trained")
    elif digest != DIGESTS[data][0]:
        found.append(f"{about} was trained on other images than the paper's")
    if isinstance(said.get("defense"), Mapping):
        found.append(f"{about} is defended by {said['defense'].get('class')}")
    return found


def _of(named: Any, wanted: str) -> str:
    return "the paper's" if named == wanted else f"of {wanted}"


def _of_images(used: Used) -> list[str]:
    if used.images is None:
        return ["the run does not say which test images it used: evaluate again"]
    return [] if used.images == DIGESTS[used.data][1] else ["the test images are not the paper's"]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
    """Return ``field ours, not theirs`` for each different field; missing fields count as different."""
    missing = "nothing"
    return [
        f"{name.replace('_', ' ')} {ours.get(name, missing)}, not {theirs.get(name, missing)}"
        for name in {**theirs, **ours}
        if name not in without and not same(ours.get(name, missing), theirs.get(name, missing))
    ]


def changed_hyperparameters(
    attack: Card, data: str, kind: str, *, eps: float | None = None
) -> tuple[str, ...]:
    """Return the names of an attack's hyperparameters that differ from its preset's.

    Args:
        attack: ``attack`` of a config: ``name``, ``class``, ``hyperparameters``.
        data: data set name.
        kind: of preset.
        eps: replacement of the preset's radius, in a sweep.

    Returns:
        Names, and ``class`` for another attack class; none for an attack without a preset.
    """
    try:
        usual: Any = attacks.preset(str(attack["name"]), data, kind)
    except UnknownName:
        return ()
    wanted = hyperparameters(usual if eps is None else usual.replace(eps=eps))
    other = (CLASS,) if attack.get("class") != class_of(usual) else ()
    return (*other, *_changed(attack.get("hyperparameters", {}), wanted))


def changed_settings(
    about: Card, data: str, kind: str, channels: int | None, base: Any = None
) -> tuple[str, ...]:
    """Return the names of a defense's settings that differ from its preset's.

    Args:
        about: ``defense`` or ``detector`` of a config: ``name``, ``class``, ``settings``, ``recipe``.
        data: data set name.
        kind: of preset.
        channels: of an image, for data sets without a known name.
        base: recipe of the undefended model, all its fields; None if unknown.

    Returns:
        Names; ``class`` for another defense class, ``training`` if the network's training does not match the
        settings; none for a defense without a preset.
    """
    try:
        usual: Any = defenses.preset(str(about["name"]), data, kind, channels=channels)
    except UnknownName:
        return ()
    other = [CLASS] if about.get("class") != type(usual).__name__ else []
    found = [*other, *_changed(about["settings"], settings_of(usual))]
    if not found and isinstance(base, Mapping) and isinstance(about.get("recipe"), Mapping):
        by = Recipe.from_dict(dict(base))
        kept = getattr(usual, "keeps_network", False)
        wanted = (by if kept else changed_recipe(usual, by)).to_dict()
        found += [TRAINING] if differences(about["recipe"], wanted, LABELS) else []
    return tuple(found)


def _changed(ours: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterable[str]:
    return (name for name in {**usual, **ours} if not same(ours.get(name), usual.get(name)))


def same(one: Any, other: Any) -> bool:
    """Tell whether two settings are equal, numbers to the seven digits of float32, lists part by part."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if _number(one) and _number(other):
        return math.isclose(one, other, rel_tol=1e-6)
    return type(one) is type(other) and bool(one == other)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

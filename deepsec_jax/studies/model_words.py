"""The description of a model folder for tables and configs."""

from collections.abc import Mapping
from typing import Any

from deepsec_jax.defenses import DEFENSES, ModelFolder
from deepsec_jax.defenses.base import itself


def about_folder(found: ModelFolder, name: str) -> dict[str, Any]:
    """Return a config's entries for a folder's model: everything except the weights.

    Args:
        found: contents of the folder.
        name: for tables and cells.

    Returns:
        ``name``, ``network``, ``recipe`` with all its fields; if known ``trained_on``, the digest of the
        data, and ``test_accuracy``; for a defended model ``defense``: its card.
    """
    saved = found.saved
    about: dict[str, Any] = {
        "name": name, "network": saved.recipe.model, "recipe": saved.recipe.to_dict(),
    }  # fmt: skip
    trained_on = saved.figures.get("trained_on", {}).get("data")
    for key, value in (("trained_on", trained_on), ("test_accuracy", found.test_accuracy)):
        if value is not None:
            about[key] = value
    if found.defended is not None:
        card = found.defended.card
        about["defense"] = {
            key: card.get(key) for key in ("name", "preset", "base", "class", "settings", "versions")
        }
    return about


def defense_in_words(card: Mapping[str, Any]) -> str:
    """Return a defense's card as text, e.g. ``RC of mnist-small, preset small``."""
    variant = str(card.get("name") or "").partition("@")[2]
    words = ", ".join(filter(None, (card["class"], variant)))
    return f"{words} of {card.get('base') or 'a model'}, preset {card.get('preset')}"


def not_adaptive(about: Mapping[str, Any]) -> list[str]:
    """Return a warning about attacks that do not use knowledge of the model's defense.

    Args:
        about: a config's entries for the model, see :func:`about_folder`.

    Returns:
        One sentence with the remedy; none for an undefended model, or a defense with an exact gradient.
    """
    card = about.get("defense")
    kinds = {kind.__name__: kind for kind in DEFENSES.values()}
    kind: Any = kinds.get(str(card.get("class"))) if isinstance(card, Mapping) else None
    if card is None or kind is None or kind.surrogate is itself:
        return []
    why = (
        "hides or changes its gradient, or draws at random"
        if getattr(kind, "differentiable", True)
        else "has no gradient, or one that says nothing"
    )
    return [
        f"{about['name']} is defended by {kind.card.name}, which {why}: these attacks do not know that, and "
        f"may look weaker than an attacker who does. Ask with deepsec evaluate defenses {card.get('base')} "
        f"--defenses {about['name']} (their folders)."
    ]

"""The fitted models that come with the source: networks and defended models, as folders."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

ENVIRONMENT = "DEEPSEC_PRETRAINED"
"""Variable that names another folder than the checkout's ``pretrained/``."""

CARD = "card.json"
"""File of a model's folder with its robust accuracy: ``deepsec robustness FOLDER --card`` writes it."""


class PretrainedError(ValueError):
    """No such pretrained model; one line with the value and the remedy."""


def pretrained_dir() -> Path:
    """Return the folder of them: ``$DEEPSEC_PRETRAINED``, or ``pretrained/`` of the checkout."""
    return Path(os.environ.get(ENVIRONMENT) or Path(__file__).resolve().parents[1] / "pretrained")


def pretrained_names() -> list[str]:
    """Return the names of the pretrained models, sorted."""
    return sorted(path.parent.name for path in pretrained_dir().glob("*/recipe.json"))


def pretrained_card(name: str) -> dict[str, Any]:
    """Return what the folder says: ``recipe``, ``classes``, ``figures``, and ``digest`` of the network.

    ``defense`` is there if the model has one, and ``card`` if its robust accuracy was measured. ``whole`` is
    the :func:`folder_digest`, which ``card["digest"]`` equals unless other weights were measured.

    Raises:
        PretrainedError: no such model.
    """
    folder = pretrained_folder(name)
    card: dict[str, Any] = json.loads((folder / "recipe.json").read_text("utf-8"))
    for key, file in (("defense", "defense.json"), ("card", CARD)):
        if (folder / file).is_file():
            card[key] = json.loads((folder / file).read_text("utf-8"))
    card["whole"] = folder_digest(folder)
    return card


def folder_digest(folder: str | os.PathLike[str]) -> str:
    """Return a digest of all that a model's folder answers with: network, defense, detector and their parts.

    That of a network alone is the digest of its weights.

    Args:
        folder: of a network or a defended model.
    """
    folder = Path(folder)
    networks = [
        str(json.loads(recipe.read_text("utf-8"))["digest"]) for recipe in sorted(folder.rglob("recipe.json"))
    ]
    others = [path for name in ("defense.json", "detector.npz") if (path := folder / name).is_file()]
    if not others and len(networks) == 1:
        return networks[0]
    found = hashlib.sha256("".join(networks).encode())
    for path in others:
        found.update(path.read_bytes())
    return found.hexdigest()


def pretrained_folder(name: str) -> Path:
    """Return the folder of a pretrained model, for the command line or ``defenses.load``.

    Raises:
        PretrainedError: no such model.
    """
    if name not in pretrained_names():
        known = ", ".join(pretrained_names()) or f"none in {pretrained_dir()}"
        raise PretrainedError(
            f"no pretrained model {name!r}: there are {known}; set {ENVIRONMENT} to the folder of others"
        )
    return pretrained_dir() / name


def load_pretrained(name: str) -> Any:
    """Return a pretrained model, in evaluation mode: the network, or the defended model around it.

        model = models.load_pretrained("mnist-pat-small")

    Args:
        name: one of :func:`pretrained_names`, see ``deepsec list pretrained``.

    Raises:
        PretrainedError: no such model.
        CheckpointError: its folder is damaged.
    """
    from deepsec_jax import defenses  # here, because names and cards are listed without jax

    return defenses.load(pretrained_folder(name)).model

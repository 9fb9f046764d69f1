"""Adversarial sets on disk: images with the labels, the attack and the versions that made them.

This is host code.  A set is one ``.npz`` without pickles, so NumPy alone can read it.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from deepsec_jax.attacks.text import parse
from deepsec_jax.protocols import Attack

FORMAT = 1
ARRAYS = ("x_adv", "x", "labels")


class SavedSetError(ValueError):
    """A file that is not an adversarial set, or cannot be written; one line with the path and the remedy."""


@dataclass(frozen=True)
class AdversarialSet:
    """Adversarial images with everything needed to judge them again.

    Attributes:
        x_adv: adversarial images [N, H, W, C] in [0, 1].
        x: clean images [N, H, W, C].
        labels: true classes, int [N].
        targets: target classes, int [N]; None if any wrong class counts.
        attack: the attack as text, ``PGD(eps=0.1, steps=40)``; :meth:`made_by` returns it as an attack.
        notes: further facts: names, seeds, figures; JSON-ready.
        versions: package -> version in the process that saved the set.
    """

    x_adv: np.ndarray
    x: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None
    attack: str
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def made_by(self) -> Attack:
        """Return the attack, see :func:`deepsec_jax.attacks.parse`."""
        return parse(self.attack)


def save(
    path: str | os.PathLike[str],
    x_adv: Any,
    x: Any,
    labels: Any,
    *,
    attack: Attack,
    targets: Any = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adversarial set to ``path`` atomically; an existing file is not overwritten.

        attacks.save("pgd.npz", x_adv, x, labels, attack=pgd, notes={"seed": 0})

    Args:
        path: file to write; ``.npz`` is appended if missing.
        x_adv: adversarial images [N, H, W, C].
        x: clean images [N, H, W, C].
        labels: true classes [N].
        attack: the attack that made the images; stored as text.
        targets: ``attack.targets(model, x, labels)``.
        notes: further facts, JSON-ready.

    Returns:
        The path of the file.

    Raises:
        SavedSetError: the file exists, or the arrays do not match.
    """
    path = Path(path)
    path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    arrays = {"x_adv": np.asarray(x_adv), "x": np.asarray(x), "labels": np.asarray(labels)}
    if targets is not None:
        arrays["targets"] = np.asarray(targets)
    fault = _fault(arrays)
    if fault:
        raise SavedSetError(f"{path} is not written: {fault}")
    if path.exists():
        raise SavedSetError(f"{path} exists and is never overwritten: choose another name or remove it")
    said = {
        "format": FORMAT, "attack": repr(attack), "notes": dict(notes or {}),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aside-") as aside:
        written = Path(aside) / path.name
        everything: dict[str, Any] = {**arrays, "about": np.array(json.dumps(said))}
        np.savez(written, **everything)
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.rename(path)
    return path


def load(path: str | os.PathLike[str]) -> AdversarialSet:
    """Return the adversarial set of a file that :func:`save` has written.

    Raises:
        SavedSetError: no such file, another format, or a damaged one.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        made_with = int(about["format"])
        known = {name: about[name] for name in ("attack", "notes", "versions")}
    except FileNotFoundError:
        raise SavedSetError(f"{path} does not exist: give a file that attacks.save has written") from None
    except Exception as error:  # a truncated zip or JSON raises many kinds of errors
        raise SavedSetError(f"{path} is no adversarial set ({' '.join(str(error).split())})") from None
    if made_with != FORMAT:
        raise SavedSetError(f"{path} has format {made_with}, this version reads {FORMAT}: make the set again")
    fault = _fault(arrays)
    if fault:
        raise SavedSetError(f"{path} is damaged: {fault}")
    return AdversarialSet(**{name: arrays[name] for name in ARRAYS}, targets=arrays.get("targets"), **known)


def _fault(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return the mismatch of the arrays, or None."""
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if arrays["x_adv"].shape != arrays["x"].shape or arrays["x"].ndim != 4:
        shapes = [list(arrays[name].shape) for name in ("x_adv", "x")]
        return f"x_adv is {shapes[0]} and x is {shapes[1]}, both must be the same [N, H, W, C]"
    for name in ("labels", "targets"):
        if name in arrays and arrays[name].shape != arrays["x"].shape[:1]:
            return f"{name} is {list(arrays[name].shape)}, it must be [{len(arrays['x'])}]"
    return None

"""What the cells of a detector are asked: scores of clean images, of an attack's images, of a sweep of FGSM.

A config of the three kinds has ``kind``, ``version``, ``data``, ``model`` (the guarded one, as in a cell of
an attack), ``detector`` (``name`` of the preset row, ``preset`` kind, ``class``, ``settings``, ``versions``,
``base``), ``threshold``, ``weights`` (digests of model and fitted detector) and ``images`` (a hash over the
test split).  A cell of kind ``detection`` also has ``source`` (the name of the attack's cell) and its
``attack``, ``n``, ``seed`` and ``candidates``; one of kind ``sweep`` has these without a source, and ``eps``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deepsec_jax.attacks import FGSM, preset
from deepsec_jax.defenses import DefenseError, FittedDetector
from deepsec_jax.evaluation.attack_table import described
from deepsec_jax.pytree import hash_tree
from deepsec_jax.runs.cells import CLEAN, DETECTION, KINDS, SWEEP


@dataclass(frozen=True)
class Watcher:
    """A fitted detector, and what tables say of it.

    Attributes:
        about: ``name``, ``preset``, ``class``, ``settings``, ``versions``, ``base``: what decides it.
        detector: with its one threshold.
        fpr: false positive rate that the threshold was set for.
        validation: number of clean images that set it.
        folder: where it lies.
        training: what fitting has noted.
    """

    about: dict[str, Any]
    detector: FittedDetector
    fpr: float
    validation: int
    folder: str = ""
    training: Mapping[str, Any] | None = None

    @cached_property
    def weights(self) -> str:
        """Digest of the fitted detector."""
        return str(hash_tree(self.detector).hexdigest()[:16])


@dataclass(frozen=True)
class Asked:
    """What all configs of one evaluation of detectors share.

    Attributes:
        data: data set name.
        model: what the guarded model is called (``name``), and what else is known of it.
        raw: the model's digest.
        images: hash of the test split.
    """

    data: str
    model: dict[str, Any]
    raw: str
    images: str

    def clean(self, watcher: Watcher) -> dict[str, Any]:
        """Return the config of all clean test images."""
        return self._shared(CLEAN, watcher)

    def detection(self, watcher: Watcher, source: str, attacked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of an attack's images.

        Args:
            watcher: the detector.
            source: name of the attack's cell.
            attacked: its config.
        """
        kept = {name: attacked[name] for name in ("attack", "n", "seed", "candidates")}
        return {**self._shared(DETECTION, watcher), "source": source, **kept}

    def sweep(
        self, watcher: Watcher, eps: float, *, channels: int, candidates: str, n: int, seed: int
    ) -> dict[str, Any]:
        """Return the config of FGSM's images at one radius."""
        attack = {
            "name": "fgsm", "preset": "paper", **described(swept_fgsm(self.data, eps, channels=channels)),
        }  # fmt: skip
        return {
            **self._shared(SWEEP, watcher), "attack": attack, "eps": eps, "n": n, "seed": seed,
            "candidates": candidates,
        }  # fmt: skip

    def _shared(self, kind: str, watcher: Watcher) -> dict[str, Any]:
        return {
            "kind": kind, "version": KINDS[kind].version, "data": self.data, "model": self.model,
            "images": self.images, "detector": watcher.about,
            "threshold": threshold_of(watcher.detector),
            "weights": {"raw": self.raw, "detector": watcher.weights},
        }  # fmt: skip


def threshold_of(detector: FittedDetector) -> float:
    """Return the threshold.

    Raises:
        DefenseError: it was never set.
    """
    threshold = float(detector.threshold)
    if not math.isfinite(threshold):
        raise DefenseError(f"the detector has no threshold ({threshold:g}): fit it again, or call at_fpr")
    return threshold


def swept_fgsm(dataset: str, eps: float, *, channels: int) -> FGSM:
    """Return the paper's FGSM of a data set at another radius."""
    attack: Any = preset("fgsm", dataset, "paper", channels=channels)
    return attack.replace(eps=eps)

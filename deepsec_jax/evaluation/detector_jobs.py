"""The cells of a detector as jobs: scores of clean images, of an attack's images, of a sweep of FGSM.

A config of the three kinds has ``kind``, ``version``, ``data`` and ``model`` (the guarded one, as in a cell
of an attack).  Its ``detector`` has ``name`` of the preset row, ``preset`` kind, ``class``, ``settings``,
``versions`` and ``base``.  It also has ``threshold``, ``weights`` (digests of model and fitted detector) and
``images`` (a hash over the test split).  A cell of kind ``detection`` also has ``source`` (the name of the
attack's cell) and its ``attack``, ``n``, ``seed`` and ``candidates``; one of kind ``sweep`` has these without
a source, and ``eps``.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import FGSM, preset
from deepsec_jax.attacks.settings import described
from deepsec_jax.batches import OnBatch
from deepsec_jax.data import Candidates, Dataset, unit_images
from deepsec_jax.defenses import DefenseError, FittedDetector
from deepsec_jax.defenses.detector import score_all
from deepsec_jax.evaluation.attack_jobs import attacked
from deepsec_jax.evaluation.machine import compile_clock, median_seconds
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.hashing import hash_tree
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import root_key
from deepsec_jax.runs.cells import CLEAN, DETECTION, KINDS, SWEEP
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]
_COPIED = ("success", "rows", "no_answer")


@dataclass(frozen=True)
class DetectorUnderTest:
    """A fitted detector, and its description for tables.

    Attributes:
        about: ``name``, ``preset``, ``class``, ``settings``, ``versions``, ``base``.
        detector: with its threshold.
        fpr: nominal false positive rate of the threshold.
        validation: number of clean images that set it.
        folder: its path.
        training: figures of the fit.
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
    """Common entries of all configs of one evaluation of detectors.

    Attributes:
        data: data set name.
        model: ``name`` of the guarded model, and further known facts.
        raw: the model's digest.
        images: hash of the test split.
    """

    data: str
    model: dict[str, Any]
    raw: str
    images: str

    def clean(self, watcher: DetectorUnderTest) -> dict[str, Any]:
        """Return the config for all clean test images."""
        return self._shared(CLEAN, watcher)

    def detection(
        self, watcher: DetectorUnderTest, source: str, attacked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the config for an attack's images.

        Args:
            watcher: the detector.
            source: name of the attack's cell.
            attacked: its config.
        """
        kept = {name: attacked[name] for name in ("attack", "n", "seed", "candidates")}
        return {**self._shared(DETECTION, watcher), "source": source, **kept}

    def sweep(
        self, watcher: DetectorUnderTest, eps: float, *, channels: int, candidates: str, n: int, seed: int
    ) -> dict[str, Any]:
        """Return the config for FGSM's images at one radius."""
        attack = {
            "name": "fgsm", "preset": "paper", **described(swept_fgsm(self.data, eps, channels=channels)),
        }  # fmt: skip
        return {
            **self._shared(SWEEP, watcher), "attack": attack, "eps": eps, "n": n, "seed": seed,
            "candidates": candidates,
        }  # fmt: skip

    def _shared(self, kind: str, watcher: DetectorUnderTest) -> dict[str, Any]:
        return {
            "kind": kind, "version": KINDS[kind].version, "data": self.data, "model": self.model,
            "images": self.images, "detector": watcher.about,
            "threshold": threshold_of(watcher.detector),
            "weights": {"raw": self.raw, "detector": watcher.weights},
        }  # fmt: skip


def threshold_of(detector: FittedDetector) -> float:
    """Return the threshold.

    Raises:
        DefenseError: it was not set.
    """
    threshold = float(detector.threshold)
    if not math.isfinite(threshold):
        raise DefenseError(f"the detector has no threshold ({threshold:g}): fit it again, or call at_fpr")
    return threshold


def swept_fgsm(dataset: str, eps: float, *, channels: int) -> FGSM:
    """Return the paper's FGSM for a data set at another radius."""
    attack: Any = preset("fgsm", dataset, "paper", channels=channels)
    changed: FGSM = attack.replace(eps=eps)
    return changed


@dataclass(frozen=True)
class Sweep:
    """FGSM at several radii on one candidate set.

    Attributes:
        eps: radii, in units of the [0, 1] pixel range.
        name: of the candidate set.
        n: number of candidates.
        seed: of the set.
        candidates: returns the set.
    """

    eps: tuple[float, ...]
    name: str
    n: int
    seed: int
    candidates: Callable[[], Candidates]


@dataclass(frozen=True)
class Detectors:
    """Makes the jobs of one evaluation of detectors.

    Attributes:
        asked: common entries of all configs.
        model: the guarded classifier.
        dataset: its test images are the clean ones.
        store: has the attacks' images.
        batch_size: images per call.
        notes: entries of environments for device and findings.
    """

    asked: Asked
    model: Classifier
    dataset: Dataset
    store: Store
    batch_size: int
    notes: Callable[[], dict[str, Any]] = dict

    def jobs(
        self,
        watchers: Sequence[DetectorUnderTest],
        attacks: Mapping[str, Mapping[str, Any]],
        sweep: Sweep | None,
    ) -> list[Job]:
        """Return the jobs of all cells, grouped by detector.

        Args:
            watchers: the detectors.
            attacks: name -> config of the attacks' cells.
            sweep: of FGSM; None for none.
        """
        found = []
        made = cache(partial(self._swept_images, sweep)) if sweep else None
        for each in watchers:
            found.append(self.clean(each))
            found += [self.detection(each, name, config) for name, config in attacks.items()]
            found += [self.swept(each, eps, sweep, made) for eps in sweep.eps] if sweep and made else []
        return found

    def clean(self, watcher: DetectorUnderTest) -> Job:
        """Return the job that scores all clean test images."""

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            test = self.dataset.test
            labels = np.asarray(test.labels, np.int32)
            environment, scores = self._scored(watcher, test.images, on_batch)
            with compile_clock() as compile_seconds:
                started = time.perf_counter()
                images, batch_size = unit_images(test.images), min(self.batch_size, len(test))
                answers = predict(self.model, images, labels, batch_size=batch_size)
                environment["forward_seconds"] = time.perf_counter() - started - compile_seconds()
            environment["channels"] = self.dataset.image_shape[2]
            return environment, {
                "scores": scores, "labels": labels, "correct": answers.correct, "no_answer": answers.no_answer
            }  # fmt: skip

        return self._job(self.asked.clean(watcher), watcher, len(self.dataset.test), compute)

    def detection(self, watcher: DetectorUnderTest, source: str, config: Mapping[str, Any]) -> Job:
        """Return the job that scores the images of one attack's cell."""

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            cell = self.store.arrays(source)
            environment, scores = self._scored(watcher, cell["x_adv"], on_batch)
            return environment, {"scores": scores, **_copied(cell)}

        return self._job(
            self.asked.detection(watcher, source, config), watcher, int(config["n"]), compute, (source,)
        )

    def swept(
        self, watcher: DetectorUnderTest, eps: float, sweep: Sweep, images: Callable[[float], Arrays]
    ) -> Job:
        """Return the job that scores FGSM's images at one radius; ``images`` returns the attack's arrays."""
        config = self.asked.sweep(
            watcher, eps, channels=self.dataset.image_shape[2], candidates=sweep.name, n=sweep.n,
            seed=sweep.seed,
        )  # fmt: skip

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            cell = images(eps)
            environment, scores = self._scored(watcher, cell["x_adv"], on_batch)
            return environment, {"scores": scores, **_copied(cell)}

        return self._job(config, watcher, sweep.n, compute)

    def _swept_images(self, sweep: Sweep, eps: float) -> Arrays:
        """Return the arrays of FGSM at one radius, which all detectors score."""
        return attacked(
            swept_fgsm(self.asked.data, eps, channels=self.dataset.image_shape[2]), self.model,
            sweep.candidates(), key=root_key(sweep.seed), batch_size=min(self.batch_size, sweep.n),
        )[1]  # fmt: skip

    def _job(
        self,
        config: dict[str, Any],
        watcher: DetectorUnderTest,
        images: int,
        compute: Any,
        after: tuple[str, ...] = (),
    ) -> Job:
        def notes() -> dict[str, Any]:
            return {
                "batch_size": self.batch_size, "folder": watcher.folder, "fpr": watcher.fpr,
                "validation": watcher.validation, "training": dict(watcher.training or {}), **self.notes(),
            }  # fmt: skip

        # Figures of tables need the scores of two cells, so no cell has columns.
        few = self.dataset.test.images[: self.batch_size]
        return Job(
            config, compute, images=images, gradients=None, after=after, bytes=12 * images + 65536,
            seconds=partial(scoring_seconds, watcher, few), notes=notes,
        )  # fmt: skip

    def _scored(
        self, watcher: DetectorUnderTest, images: np.ndarray, on_batch: OnBatch
    ) -> tuple[Environment, np.ndarray]:
        """Return the cost of scoring, without compilation, and the scores, float32 [N]."""
        batch_size = max(1, min(self.batch_size, len(images)))
        started = time.perf_counter()
        with compile_clock() as compile_seconds:
            scores = score_all(watcher.detector.scorer, images, batch_size=batch_size, on_batch=on_batch)
        seconds = time.perf_counter() - started
        compiling = compile_seconds()
        return {"seconds": max(0.0, seconds - compiling), "compile_seconds": compiling}, scores


def _copied(cell: Arrays) -> Arrays:
    """Return the arrays that a cell of scores copies from an attack's; old versions have no ``no_answer``."""
    return {name: cell[name] for name in _COPIED if name in cell}


def scoring_seconds(watcher: DetectorUnderTest, images: np.ndarray, *, repeats: int = 3) -> float:
    """Return the median wall time of scoring these images, per image, without compilation.

    Args:
        watcher: the detector.
        images: one batch [B, H, W, C].
        repeats: number of measurements.
    """
    batch = jnp.asarray(unit_images(images))
    return median_seconds(lambda: watcher.detector.score(batch), repeats) / len(images)

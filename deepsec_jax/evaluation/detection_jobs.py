"""The cells of an evaluation of detectors as jobs: how each is computed."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.batches import OnBatch
from deepsec_jax.data import Candidates, Dataset, unit_images
from deepsec_jax.defenses.detector import score_all
from deepsec_jax.evaluation.attack_jobs import attacked
from deepsec_jax.evaluation.clock import compile_clock
from deepsec_jax.evaluation.detection_cells import Asked, Watcher, swept_fgsm
from deepsec_jax.evaluation.robustness import ask
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import root_key
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]
_COPIED = ("success", "rows", "no_answer")


@dataclass(frozen=True)
class Sweep:
    """FGSM at several radii on one candidate set.

    Attributes:
        eps: radii, in units of the [0, 1] pixel range.
        name: of the candidate set.
        n: number of candidates.
        seed: of the set.
        candidates: gives the set.
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
        asked: what all configs share.
        model: the guarded classifier.
        dataset: whose test images are the clean ones.
        store: where the attacks' images lie.
        batch_size: images per call.
        notes: what environments say of device and findings.
    """

    asked: Asked
    model: Classifier
    dataset: Dataset
    store: Store
    batch_size: int
    notes: Callable[[], dict[str, Any]] = dict

    def jobs(
        self, watchers: Sequence[Watcher], attacks: Mapping[str, Mapping[str, Any]], sweep: Sweep | None
    ) -> list[Job]:
        """Return the jobs of all cells, those of one detector together.

        Args:
            watchers: the detectors.
            attacks: name -> config of the attacks' cells.
            sweep: of FGSM; None for none.
        """
        found = []
        for each in watchers:
            found.append(self.clean(each))
            found += [self.detection(each, name, config) for name, config in attacks.items()]
            found += [self.swept(each, eps, sweep) for eps in sweep.eps] if sweep else []
        return found

    def clean(self, watcher: Watcher) -> Job:
        """Return the job that scores all clean test images."""

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            test = self.dataset.test
            labels = np.asarray(test.labels, np.int32)
            environment, scores = self._scored(watcher, test.images, on_batch)
            with compile_clock() as compile_seconds:
                started = time.perf_counter()
                images, batch_size = unit_images(test.images), min(self.batch_size, len(test))
                answers = ask(self.model, images, labels, batch_size=batch_size)
                environment["forward_seconds"] = time.perf_counter() - started - compile_seconds()
            environment["channels"] = self.dataset.image_shape[2]
            return environment, {
                "scores": scores, "labels": labels, "correct": answers.correct, "no_answer": answers.no_answer
            }  # fmt: skip

        return self._job(self.asked.clean(watcher), watcher, len(self.dataset.test), compute)

    def detection(self, watcher: Watcher, source: str, config: Mapping[str, Any]) -> Job:
        """Return the job that scores the images of one attack's cell."""

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            cell = self.store.arrays(source)
            environment, scores = self._scored(watcher, cell["x_adv"], on_batch)
            return environment, {"scores": scores, **_copied(cell)}

        return self._job(
            self.asked.detection(watcher, source, config), watcher, int(config["n"]), compute, (source,)
        )

    def swept(self, watcher: Watcher, eps: float, sweep: Sweep) -> Job:
        """Return the job that scores FGSM's images at one radius."""
        channels = self.dataset.image_shape[2]
        config = self.asked.sweep(
            watcher, eps, channels=channels, candidates=sweep.name, n=sweep.n, seed=sweep.seed
        )

        def compute(on_batch: OnBatch) -> tuple[Environment, Arrays]:
            _, cell = attacked(
                swept_fgsm(config["data"], eps, channels=channels), self.model, sweep.candidates(),
                key=root_key(sweep.seed), batch_size=min(self.batch_size, sweep.n),
            )  # fmt: skip
            environment, scores = self._scored(watcher, cell["x_adv"], on_batch)
            return environment, {"scores": scores, **_copied(cell)}

        return self._job(config, watcher, sweep.n, compute)

    def _job(
        self, config: dict[str, Any], watcher: Watcher, images: int, compute: Any, after: tuple[str, ...] = ()
    ) -> Job:
        def notes() -> dict[str, Any]:
            return {
                "batch_size": self.batch_size, "folder": watcher.folder, "fpr": watcher.fpr,
                "validation": watcher.validation, "training": dict(watcher.training or {}), **self.notes(),
            }  # fmt: skip

        # What a table shows follows from scores of two cells, so no cell has columns.
        return Job(
            config, compute, images=images, gradients=None, after=after, bytes=12 * images + 65536,
            seconds=partial(self._seconds, watcher), notes=notes,
        )  # fmt: skip

    def _seconds(self, watcher: Watcher) -> float:
        rows = min(len(self.dataset.test), self.batch_size)
        return scoring_seconds(watcher, self.dataset.test.images[:rows])

    def _scored(
        self, watcher: Watcher, images: np.ndarray, on_batch: OnBatch
    ) -> tuple[Environment, np.ndarray]:
        """Return what scoring cost, compilation apart, and the scores, float32 [N]."""
        batch_size = max(1, min(self.batch_size, len(images)))
        parts = [np.zeros(0, np.float32)]
        started = time.perf_counter()
        with compile_clock() as compile_seconds:
            for first in range(0, len(images), batch_size):
                batch = images[first : first + batch_size]
                parts.append(score_all(watcher.detector.scorer, batch, batch_size=batch_size))
                on_batch(len(batch))
        seconds = time.perf_counter() - started
        compiling = compile_seconds()
        return {"seconds": max(0.0, seconds - compiling), "compile_seconds": compiling}, np.concatenate(parts)


def _copied(cell: Arrays) -> Arrays:
    """Return what a cell of scores keeps of an attack's; earlier versions have no ``no_answer``."""
    return {name: cell[name] for name in _COPIED if name in cell}


def scoring_seconds(watcher: Watcher, images: np.ndarray, *, repeats: int = 3) -> float:
    """Return the median wall time of scoring these images, per image; compilation happens before.

    Args:
        watcher: the detector.
        images: one batch [B, H, W, C].
        repeats: number of measurements.
    """
    batch = jnp.asarray(unit_images(images))
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(watcher.detector.score(batch))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]) / len(images)

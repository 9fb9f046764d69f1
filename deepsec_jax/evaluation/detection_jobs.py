"""The cells of an evaluation of detectors as jobs: how each is computed."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.data import Candidates, Dataset, unit_images
from deepsec_jax.defenses.detector import score_all
from deepsec_jax.evaluation.attack_table import run_attack
from deepsec_jax.evaluation.clock import compile_clock
from deepsec_jax.evaluation.detection_cells import Asked, Watcher, swept_fgsm
from deepsec_jax.evaluation.machine import machine_facts
from deepsec_jax.evaluation.robustness import ask
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import root_key
from deepsec_jax.runs.cell_files import cell_name
from deepsec_jax.runs.cells import CLEAN, DETECTION
from deepsec_jax.runs.environment import now, versions
from deepsec_jax.runs.runner import Job, OnBatch
from deepsec_jax.runs.store import Store

Environment = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class PlannedScores:
    """One cell that is wanted.

    Attributes:
        config: what decides it.
        watcher: the detector.
        images: number of images to score.
    """

    config: dict[str, Any]
    watcher: Watcher
    images: int

    @property
    def name(self) -> str:
        """The cell's name."""
        return cell_name(self.config)


@dataclass(frozen=True)
class Sweep:
    """FGSM at several radii on one candidate set.

    Attributes:
        eps: radii, in units of the [0, 1] pixel range.
        candidates: name of the set.
        n: number of candidates.
        seed: of the set.
    """

    eps: tuple[float, ...]
    candidates: str
    n: int
    seed: int


def plan_detection(
    asked: Asked, watchers: Sequence[Watcher], attacked: Mapping[str, Mapping[str, Any]], sweep: Sweep | None,
    dataset: Dataset,
) -> list[PlannedScores]:  # fmt: skip
    """Return all cells of an evaluation, those of one detector together.

    Args:
        asked: what all of them share.
        watchers: the detectors.
        attacked: name -> config of the cells of attacks.
        sweep: of FGSM; None for none.
        dataset: whose test images are the clean ones.
    """
    found = []
    for each in watchers:
        found.append(PlannedScores(asked.clean(each), each, len(dataset.test)))
        found += [
            PlannedScores(asked.detection(each, name, config), each, int(config["n"]))
            for name, config in attacked.items()
        ]
        for eps in sweep.eps if sweep else ():
            assert sweep is not None
            config = asked.sweep(
                each, eps, channels=dataset.image_shape[2], candidates=sweep.candidates, n=sweep.n,
                seed=sweep.seed,
            )  # fmt: skip
            found.append(PlannedScores(config, each, sweep.n))
    return found


def bytes_of(planned: PlannedScores) -> int:
    """Return what a cell takes on disk, about."""
    return 12 * planned.images + 65536


def detection_jobs(
    planned: Sequence[PlannedScores],
    model: Classifier,
    dataset: Dataset,
    store: Store,
    *,
    candidates: Callable[[], Candidates],
    batch_size: int,
    findings: Sequence[str] = (),
) -> list[Job]:
    """Return the jobs that make these cells.

    Args:
        planned: cells, see :func:`plan_detection`.
        model: the guarded classifier.
        dataset: whose test images are the clean ones.
        store: where the attacks' images lie.
        candidates: gives the images of the sweep.
        batch_size: images per call.
        findings: what :func:`deepsec_jax.attacks.check_model_outputs` says of the classifier.
    """

    def compute_of(each: PlannedScores) -> Callable[[OnBatch], tuple[Environment, Arrays]]:
        if each.config["kind"] == CLEAN:
            return lambda on_batch: _clean(each.watcher, model, dataset, batch_size, on_batch)
        if each.config["kind"] == DETECTION:
            return lambda on_batch: _attacked(each, store, batch_size, on_batch)
        return lambda on_batch: _swept(each, model, candidates(), batch_size, on_batch)

    return [
        Job(
            each.config, {}, _noted(compute_of(each), each, batch_size, findings), _no_columns,
            images=each.images,
        )
        for each in planned
    ]  # fmt: skip


def _no_columns(*_: Any) -> Arrays:
    return {}  # what a table shows follows from scores of two cells, so that no cell keeps it


def _noted(
    compute: Callable[[OnBatch], tuple[Environment, Arrays]],
    planned: PlannedScores,
    batch_size: int,
    findings: Sequence[str],
) -> Callable[[OnBatch], tuple[Environment, Arrays]]:
    """Return a computation whose environment says where, when and on what."""

    def noted(on_batch: OnBatch) -> tuple[Environment, Arrays]:
        started = now()
        environment, arrays = compute(on_batch)
        watcher = planned.watcher
        about = {
            "folder": watcher.folder, "fpr": watcher.fpr, "validation": watcher.validation,
            "training": dict(watcher.training or {}), "findings": list(findings),
        }  # fmt: skip
        return {
            "versions": versions(), "device": machine_facts()["Device"], "batch_size": batch_size, **about,
            **environment, "started": started, "finished": now(),
        }, arrays  # fmt: skip

    return noted


def _clean(
    watcher: Watcher, model: Classifier, dataset: Dataset, batch_size: int, on_batch: OnBatch
) -> tuple[Environment, Arrays]:
    test = dataset.test
    labels = np.asarray(test.labels, np.int32)
    environment, scores = _scored(watcher, test.images, batch_size, on_batch)
    with compile_clock() as compile_seconds:
        started = time.perf_counter()
        asked = ask(model, unit_images(test.images), labels, batch_size=min(batch_size, len(test)))
        environment["forward_seconds"] = time.perf_counter() - started - compile_seconds()
    environment["channels"] = dataset.image_shape[2]
    return environment, {
        "scores": scores, "labels": labels, "correct": asked.correct, "no_answer": asked.no_answer
    }  # fmt: skip


def _attacked(
    planned: PlannedScores, store: Store, batch_size: int, on_batch: OnBatch
) -> tuple[Environment, Arrays]:
    source = store.arrays(planned.config["source"])
    environment, scores = _scored(planned.watcher, source["x_adv"], batch_size, on_batch)
    names = ("success", "rows", "no_answer")  # the last is not there where an earlier version wrote it
    copied: Arrays = {name: source[name] for name in names if name in source}
    return environment, {"scores": scores, **copied}


def _swept(
    planned: PlannedScores, model: Classifier, candidates: Candidates, batch_size: int, on_batch: OnBatch
) -> tuple[Environment, Arrays]:
    config = planned.config
    attack = swept_fgsm(config["data"], config["eps"], channels=candidates.images.shape[3])
    result = run_attack(
        config["attack"]["name"], attack, model, candidates, key=root_key(config["seed"]),
        batch_size=min(batch_size, len(candidates)),
    )  # fmt: skip
    environment, scores = _scored(planned.watcher, result.x_adv, batch_size, on_batch)
    rows = candidates.rows.astype(np.int32)
    return environment, {
        "scores": scores, "success": result.success, "rows": rows, "no_answer": result.no_answer
    }  # fmt: skip


def _scored(
    watcher: Watcher, images: np.ndarray, batch_size: int, on_batch: OnBatch
) -> tuple[Environment, np.ndarray]:
    """Return what scoring cost, compilation apart, and the scores, float32 [N]."""
    batch_size = max(1, min(batch_size, len(images)))
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

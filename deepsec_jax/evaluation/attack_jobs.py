"""The cells of an attack evaluation as jobs: what each is made of, how it is computed and measured."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepsec_jax.catalog import lookup
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.attack_table import described, most_gradients, run_attack
from deepsec_jax.evaluation.machine import machine_facts
from deepsec_jax.evaluation.measured import bare_gradient_seconds, measure_cell
from deepsec_jax.metrics import METRICS
from deepsec_jax.protocols import Attack, Classifier
from deepsec_jax.pytree import gives_confidences
from deepsec_jax.randomness import root_key
from deepsec_jax.runs.cells import ATTACK, KINDS
from deepsec_jax.runs.environment import now, versions
from deepsec_jax.runs.runner import Job, OnBatch

_MANY = 1000  # gradients per image taken for progress where an attack does not say


def attack_config(
    name: str,
    attack: Attack,
    *,
    preset: str,
    data: str,
    model: dict[str, Any],
    candidates: str,
    images: str,
    n: int,
    seed: int,
    train_digest: Callable[[], str],
) -> dict[str, Any]:
    """Return the config of a cell: all that decides its arrays, and nothing else.

    Args:
        name: name of the preset row, e.g. ``fgsm@0.5``.
        attack: the attack of that row.
        preset: ``paper`` or ``strong``.
        data: data set name.
        model: what the model is called (``name``), and what else is known of it.
        candidates: name of the candidate set, a hash over the model's weights, the test split, n and seed.
        images: hash of the test split, see :func:`deepsec_jax.evaluation.sample.split_name`.
        n: number of candidates.
        seed: of candidates, targets and random attacks.
        train_digest: tells the data set from others; called for an attack that is fitted to training images.
    """
    fitted = {"fitted_to": train_digest()} if hasattr(attack, "fit") else {}
    return {
        "data": data, "model": model,
        "attack": {"name": name, "preset": preset, **described(attack), **fitted},
        "n": n, "seed": seed, "candidates": candidates, "images": images, "version": KINDS[ATTACK].version,
    }  # fmt: skip


def column_groups(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return group -> columns: those on the device together, each host column alone.

    Raises:
        UnknownName: no such column; names near matches.
    """
    columns = [lookup(METRICS, name, "metric") for name in names]
    device = tuple(column.name for column in columns if not column.host)
    groups = {"device": device} if device else {}
    return groups | {column.name: (column.name,) for column in columns if column.host}


def cell_bytes(n: int, image_shape: Sequence[int], classes: int, columns: int) -> int:
    """Return what a cell and its columns take on disk, about."""
    image = 2 * 4 * int(np.prod(image_shape))
    return n * (image + 4 * (classes + 4) + 8 * columns) + 65536


def gradient_clock(model: Classifier, candidates: Candidates, batch_size: int) -> Callable[[], float]:
    """Return a function that measures one bare gradient, in seconds per image, at its first call."""
    images, labels = (jnp.asarray(part[:batch_size]) for part in (candidates.images, candidates.labels))
    return cache(partial(bare_gradient_seconds, model, images, labels))


def attack_job(
    config: dict[str, Any],
    attack: Attack,
    model: Classifier,
    candidates: Candidates,
    *,
    groups: dict[str, tuple[str, ...]],
    batch_size: int,
    gradient_seconds: Callable[[], float],
    class_names: Sequence[str],
    train_images: Callable[[], np.ndarray],
    findings: Sequence[str] = (),
) -> Job:
    """Return the job that makes one cell and measures its columns.

    Args:
        config: the cell's config.
        attack: the attack that the config describes.
        model: the model under attack.
        candidates: the set that the config names.
        groups: columns wanted, see :func:`column_groups`.
        batch_size: images per call.
        gradient_seconds: see :func:`gradient_clock`.
        class_names: what the classes are called in pictures.
        train_images: gives the images that a UAP is fitted to.
        findings: what :func:`deepsec_jax.attacks.check_model_outputs` says of the model.
    """
    rows = len(candidates)
    per_image = most_gradients(attack, candidates.images[0].size if rows else 0)
    batch_size = min(batch_size, rows)

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        started = now()
        result = run_attack(
            config["attack"]["name"], attack, model, candidates,
            key=root_key(config["seed"]), train_images=train_images,
            batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip
        arrays = {
            "x_adv": result.x_adv, "x": candidates.images, "labels": candidates.labels,
            "targets": result.targets, "rows": candidates.rows.astype(np.int32),
            "success": result.success, "predicted": result.predicted, "confidence": result.confidence,
            "probabilities": result.probabilities, "no_answer": result.no_answer,
        }  # fmt: skip
        environment = {
            "versions": versions(), "device": machine_facts()["Device"], "batch_size": batch_size,
            "seconds": result.row.seconds, "compile_seconds": result.row.compile_seconds,
            "gradient_seconds": gradient_seconds(), "fit_seconds": result.row.fit_seconds,
            "gradients": result.row.gradients, "forwards": result.row.forwards,
            "class_names": list(class_names), "findings": list(findings),
            "confidences": gives_confidences(model),
            "started": started, "finished": now(),
        }  # fmt: skip
        return environment, arrays

    def measure(
        environment: dict[str, Any], arrays: dict[str, np.ndarray], names: tuple[str, ...], on_batch: OnBatch
    ) -> dict[str, np.ndarray]:
        return measure_cell(
            model, arrays, names=names, batch_size=batch_size, on_batch=on_batch,
            seconds=environment["seconds"] / rows,
            gradients=_count(environment["gradients"]), forwards=_count(environment["forwards"]),
            gradient_seconds=environment["gradient_seconds"],
        )  # fmt: skip

    return Job(config, groups, compute, measure, images=rows, gradients=per_image or _MANY)


def _count(number: float | None) -> float:
    return float("nan") if number is None else float(number)

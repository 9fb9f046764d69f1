"""The cells of an attack evaluation as jobs: config, computation and measurement of each."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepsec_jax.attacks.cost import cost
from deepsec_jax.attacks.settings import described
from deepsec_jax.batches import OnBatch, in_batches, silent
from deepsec_jax.catalog import lookup
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.generate import generate
from deepsec_jax.evaluation.judge import judge
from deepsec_jax.evaluation.measured import measure_cell
from deepsec_jax.metrics import METRICS
from deepsec_jax.model_traits import gives_confidences
from deepsec_jax.protocols import Attack, Classifier, Key
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cells import ATTACK, KINDS
from deepsec_jax.runs.runner import Job


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
    """Return the config of a cell: everything that determines its arrays.

    Args:
        name: name of the preset row, e.g. ``fgsm@0.5``.
        attack: the attack of that row.
        preset: ``paper`` or ``strong``.
        data: data set name.
        model: its ``name``, and further known facts.
        candidates: name of the candidate set, a hash over the model's weights, the test split, n and seed.
        images: hash of the test split, see :func:`deepsec_jax.evaluation.sample.split_name`.
        n: number of candidates.
        seed: of candidates, targets and random attacks.
        train_digest: returns the data set's digest; called for an attack that is fitted to training images.
    """
    fitted = {"fitted_to": train_digest()} if hasattr(attack, "fit") else {}
    return {
        "data": data, "model": model,
        "attack": {"name": name, "preset": preset, **described(attack), **fitted},
        "n": n, "seed": seed, "candidates": candidates, "images": images, "version": KINDS[ATTACK].version,
    }  # fmt: skip


def column_groups(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return group -> columns: device columns together, each host column separately.

    Raises:
        UnknownName: no such column, with near matches.
    """
    columns = [lookup(METRICS, name, "metric") for name in names]
    device = tuple(column.name for column in columns if not column.host)
    groups = {"device": device} if device else {}
    return groups | {column.name: (column.name,) for column in columns if column.host}


def attack_job(
    config: dict[str, Any],
    attack: Attack,
    model: Classifier,
    candidates: Callable[[], Candidates],
    *,
    groups: dict[str, tuple[str, ...]],
    image_shape: Sequence[int],
    classes: int,
    batch_size: int,
    gradient_seconds: Callable[[], float],
    train_images: Callable[[], np.ndarray],
    notes: Callable[[], dict[str, Any]] = dict,
    fitting: Callable[[], int] | None = None,
) -> Job:
    """Return the job that computes one cell and measures its columns.

    Args:
        config: the cell's config.
        attack: the attack that the config describes.
        model: the model under attack.
        candidates: returns the set that the config names.
        groups: requested columns, see :func:`column_groups`.
        image_shape: height, width, channels.
        classes: number of classes.
        batch_size: images per call.
        gradient_seconds: returns the wall time per image of one bare gradient.
        train_images: gives the images that a UAP is fitted to.
        notes: the environment's entries for device, classes and findings.
        fitting: returns the images per call of this attack, when it is about to run; default ``batch_size``.
    """
    rows = int(config["n"])
    batch_size = min(batch_size, rows)

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        chosen, size = candidates(), batch_size if fitting is None else min(fitting(), rows)
        costs, arrays = attacked(
            attack, model, chosen, key=root_key(config["seed"]), train_images=train_images,
            batch_size=size, on_batch=on_batch,
        )  # fmt: skip
        more = {"gradient_seconds": gradient_seconds(), "confidences": gives_confidences(model)}
        return {"batch_size": size, **costs, **more}, arrays

    def measure(
        environment: dict[str, Any], arrays: dict[str, np.ndarray], names: tuple[str, ...], on_batch: OnBatch
    ) -> dict[str, np.ndarray]:
        return measure_cell(
            model, arrays, names=names, batch_size=batch_size, on_batch=on_batch,
            seconds=environment["seconds"] / rows,
            gradients=_count(environment["gradients"]), forwards=_count(environment["forwards"]),
            gradient_seconds=environment["gradient_seconds"],
        )  # fmt: skip

    stated = cost(attack, classes=classes, entries=int(np.prod(image_shape)))
    image = 2 * 4 * int(np.prod(image_shape))
    columns = sum(map(len, groups.values()))
    return Job(
        config, compute, groups, measure, images=rows,
        gradients=None if stated is None else int(stated.gradients),
        bytes=rows * (image + 4 * (classes + 4) + 8 * columns) + 65536, notes=notes, ready=candidates,
    )  # fmt: skip


def attacked(
    attack: Attack,
    model: Classifier,
    candidates: Candidates,
    *,
    key: Key,
    train_images: Callable[[], np.ndarray] | None = None,
    batch_size: int,
    on_batch: OnBatch = silent,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run one attack on a candidate set, and judge its images independently.

    A targeted attack gets the candidates' targets, any other the true labels.

    Args:
        attack: the attack.
        model: the model under attack.
        candidates: to attack.
        key: root of everything that is drawn.
        train_images: gives the images that a UAP is fitted to.
        batch_size: images per call.
        on_batch: called with the number of images of each batch.

    Returns:
        Its cost, and the arrays of an attack's cell, see :data:`deepsec_jax.runs.cells.KINDS`.
    """
    targeted = bool(getattr(attack, "targeted", False))
    found = generate(
        attack, model, candidates.images, candidates.targets if targeted else candidates.labels,
        key=key, batch_size=batch_size, train_images=train_images, on_batch=on_batch,
    )  # fmt: skip
    judged = judge_all(
        reseed(model, example_keys(key, batch_size)), candidates.images, found.x_adv, candidates.labels,
        found.targets, batch_size=batch_size,
    )  # fmt: skip
    costs = {
        "seconds": found.seconds, "compile_seconds": found.compile_seconds, "fit_seconds": found.fit_seconds,
        "gradients": _known(found.gradients), "forwards": _known(found.forwards),
    }  # fmt: skip
    return costs, {
        "x_adv": found.x_adv, "x": candidates.images, "labels": candidates.labels, "targets": found.targets,
        "rows": candidates.rows.astype(np.int32), **judged,
    }  # fmt: skip


_JUDGED = ("success", "predicted", "confidence", "probabilities", "no_answer")


def judge_all(
    model: Classifier,
    x: np.ndarray,
    x_adv: np.ndarray,
    labels: np.ndarray,
    targets: np.ndarray,
    *,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Return the judge's results on all images, batch by batch: success, prediction, confidence ... [N].

    Args:
        model: the model that was attacked.
        x: clean images [N, H, W, C].
        x_adv: adversarial images [N, H, W, C].
        labels: true classes [N].
        targets: target classes [N]; -1 for an untargeted attack.
        batch_size: images per call.
    """
    targeted = len(x) > 0 and int(targets.min()) >= 0

    def judged(rows: np.ndarray) -> dict[str, Any]:
        outcome = judge(
            model, x[rows], x_adv[rows], labels[rows],
            targets=targets[rows] if targeted else None, first=int(rows[0]),
        )  # fmt: skip
        return {name: getattr(outcome, name) for name in _JUDGED}

    return in_batches(judged, len(x), batch_size)


def _known(count: float) -> float | None:
    return None if np.isnan(count) else count


def _count(number: float | None) -> float:
    return float("nan") if number is None else float(number)

"""Adversarial images of a whole set and their cost; success is measured elsewhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepsec_jax.attacks import prepare, run_in_batches
from deepsec_jax.attacks.cost import Counted, cost
from deepsec_jax.batches import OnBatch, in_batches, silent
from deepsec_jax.evaluation.machine import compile_clock
from deepsec_jax.model_traits import classes_of
from deepsec_jax.pixels import as_bytes
from deepsec_jax.placement import beside, on_host, place_rows
from deepsec_jax.protocols import Attack, Classifier, Key
from deepsec_jax.randomness import example_keys, reseed


@dataclass(frozen=True)
class Generated:
    """Adversarial images and their cost.

    Attributes:
        x_adv: float32 [N, H, W, C].
        targets: target classes, int32 [N]; -1 for an untargeted attack.
        seconds: wall time of all N images, without compilation.
        compile_seconds: wall time of tracing and compilation, 0 if compiled before.
        fit_seconds: wall time of fitting the attack to training images (UAP), compilation included.
        gradients: mean number of gradients of the model per image; NaN if unknown.
        forwards: forward passes per image, without those in gradients; NaN if unknown.
        felled: number of images that each attack of a cascade has brought down; empty without a cascade.
    """

    x_adv: np.ndarray
    targets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    seconds: float = 0.0
    compile_seconds: float = 0.0
    fit_seconds: float = 0.0
    gradients: float = 0.0
    forwards: float = 0.0
    felled: tuple[int, ...] = ()


def generate(
    attack: Attack,
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: Key,
    batch_size: int,
    train_images: Callable[[], np.ndarray] | None = None,
    on_batch: OnBatch = silent,
) -> Generated:
    """Run one attack on all images.

    Args:
        attack: the attack.
        model: the model under attack; a randomised one gets a key per row.
        images: clean images [N, H, W, C].
        labels: true classes [N], or the targets of a targeted attack.
        key: root of all random numbers.
        batch_size: images per call.
        train_images: gives the images that an attack with ``fit`` (UAP) is fitted to.
        on_batch: called with the number of images of each batch.
    """
    model, attack = reseed(model, example_keys(key, batch_size)), beside(attack, model)
    started, fit_seconds = time.perf_counter(), 0.0
    if hasattr(attack, "fit") and train_images is not None:
        attack = prepare(attack, model, train_images(), key=key)
        fit_seconds = time.perf_counter() - started
    counts: list[Counted] = []
    started = time.perf_counter()
    with compile_clock() as compile_seconds:
        pixels = as_bytes(images)  # from an image file: a quarter of the size on the way to the device
        x_adv = run_in_batches(
            attack, model, images if pixels is None else pixels, labels, key=key, batch_size=batch_size,
            on_batch=on_batch, on_counts=counts.append,
        )  # fmt: skip
    seconds = max(0.0, time.perf_counter() - started - compile_seconds())
    forward_passes, calls = _means(counts) or _stated(attack, model, images)
    return Generated(
        x_adv=x_adv,
        targets=_targets(attack, model, images, labels, key, batch_size),
        seconds=seconds,
        compile_seconds=compile_seconds(),
        fit_seconds=fit_seconds,
        gradients=calls,
        forwards=forward_passes,
    )


def _stated(attack: Attack, model: Classifier, images: np.ndarray) -> tuple[float, float]:
    """Return forwards and gradients of an attack that does not count; NaN where it states none exactly."""
    entries = int(np.prod(images.shape[1:]))
    stated = cost(attack, classes=classes_of(model, images[:1]) if len(images) else 2, entries=entries)
    return (stated.forwards, stated.gradients) if stated is not None and stated.exact else (np.nan, np.nan)


def _means(counts: list[Counted]) -> tuple[float, float] | None:
    """Return forwards and gradients per image; None if the attack does not count."""
    if not counts:
        return None
    forward_passes = np.concatenate([part.forwards for part in counts])
    gradients = np.concatenate([part.gradients for part in counts])
    return float(forward_passes.mean()), float(gradients.mean())


def _targets(
    attack: Attack, model: Classifier, x: np.ndarray, labels: np.ndarray, key: Key, batch_size: int
) -> np.ndarray:
    keys = example_keys(key, len(x))

    def of(rows: np.ndarray) -> dict[str, Any]:
        batch, true, own = place_rows(model, (x[rows], labels[rows], keys[rows]))
        found = attack.targets(model, batch, true, key=own)
        return {} if found is None else {"targets": on_host(found).astype(np.int32)}

    return in_batches(of, len(x), batch_size).get("targets", np.full(len(x), -1, np.int32))

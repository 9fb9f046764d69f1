"""The cells of the transferability study: the images of one attack, judged on another model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import as_labels
from deepsec_jax.batches import OnBatch, in_batches
from deepsec_jax.evaluation.defense_cells import digest
from deepsec_jax.evaluation.judge import answers_of, confidence_of, draws_of
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import example_keys, reseed, root_key
from deepsec_jax.runs.cells import KINDS, TRANSFER
from deepsec_jax.runs.runner import Job
from deepsec_jax.runs.store import Store

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Target:
    """A model that images are judged on.

    Attributes:
        about: its entries in a config, see :func:`deepsec_jax.studies.model_words.about_folder`.
        model: the classifier.
    """

    about: dict[str, Any]
    model: Classifier

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.about["name"])

    @cached_property
    def weights(self) -> str:
        """Digest of the model."""
        return digest(self.model)


def transfer_job(
    source: Job, target: Target, original: str, store: Store, *, batch_size: int,
    notes: Callable[[], dict[str, Any]] = dict,
) -> Job:  # fmt: skip
    """Return the job that judges the images of an attack's cell on another model.

    Args:
        source: job of the attack.
        target: the other model.
        original: name of the study's original model.
        store: the run directory with the images.
        batch_size: images per call.
        notes: entries of the cell's environment.
    """
    names = ("data", "model", "attack", "n", "seed", "candidates", "images")
    config = {
        "kind": TRANSFER, "version": KINDS[TRANSFER].version, **{name: source.config[name] for name in names},
        "original": original, "target": target.about, "weights": target.weights,
        "draws": draws_of(target.model), "source": source.name,
    }  # fmt: skip

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], Arrays]:
        if not store.has_cell(source.name):
            raise RuntimeError(
                f"there are no images to judge, because {source.name} failed: run it again first"
            )
        made = store.arrays(source.name)
        on_batch(source.images)
        return {"batch_size": batch_size}, judged_on(target.model, made, batch_size=batch_size)

    return Job(
        config, compute, images=source.images, gradients=1, after=(source.name,), notes=notes,
        bytes=source.images * 48 + 65536,
    )  # fmt: skip


def judged_on(model: Classifier, made: Arrays, *, batch_size: int) -> Arrays:
    """Return what a model says to the images of an attack's cell, one value per image.

    Args:
        model: the classifier.
        made: ``x``, ``x_adv``, ``labels``, ``targets`` (-1: untargeted) and ``success`` of an attack's cell.
        batch_size: images per call.
    """
    rows = len(made["labels"])
    batch_size = max(1, min(batch_size, rows))
    model = reseed(model, example_keys(root_key(0), batch_size))  # one key per row; draws replace them
    targeted = rows > 0 and int(made["targets"].min()) >= 0

    def judged(chosen: np.ndarray) -> dict[str, Any]:
        x, x_adv = (jnp.asarray(made[name][chosen]) for name in ("x", "x_adv"))
        labels = as_labels(made["labels"][chosen])
        goals = as_labels(made["targets"][chosen]) if targeted else None
        clean = answers_of(model, x, labels, goals, first=int(chosen[0]))
        found = answers_of(model, x_adv, labels, goals, before=clean.reached, first=int(chosen[0]))
        return {
            "clean": clean.correct, "reached": found.success, "wrong": 1.0 - found.correct - found.no_answer,
            "predicted": found.predicted, "confidence": confidence_of(found), "no_answer": found.no_answer,
        }  # fmt: skip

    kept = {name: made[name] for name in ("labels", "targets", "success")}
    return {**kept, **in_batches(judged, rows, batch_size)}

"""Outputs of the undefended and the defended model on clean test images, and the paper's metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.evaluation.judge import judging_keys
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.metrics import DEFENSE_METRICS, Column, DefenseRecord, defense_record_of
from deepsec_jax.model_traits import rejects
from deepsec_jax.placement import on_host, place_rows
from deepsec_jax.protocols import Classifier
from deepsec_jax.runs.cells import KINDS, UTILITY


def _accuracy(record: DefenseRecord) -> jax.Array:
    return record.correct


ACCURACY = Column(
    "accuracy", "accuracy", "Accuracy", "share of the clean test images asked with F_D(x) = y", "II-D",
    "share", "higher", "all", _accuracy, rate=True,
)  # fmt: skip


def _rejected(record: DefenseRecord) -> jax.Array:
    return jnp.full_like(record.correct, jnp.nan) if record.rejected is None else record.rejected


REJECTED = Column(
    "rejected", "csr", "Rejected", "share of the clean test images asked that the defended model refuses",
    "ours", "share", "lower", "all", _rejected, rate=True, needs_rejection=True,
)  # fmt: skip


def utility_columns(*, rejecting: bool = False) -> dict[str, Column]:
    """Return the columns of Table IV by name, in its order, then other defense metrics.

    Args:
        rejecting: whether to include columns of models that can reject.
    """
    every = {ACCURACY.name: ACCURACY, **DEFENSE_METRICS}
    return every | {REJECTED.name: REJECTED} if rejecting else every


def compare(
    raw: Classifier,
    defended: Classifier,
    sample: Sample,
    *,
    confidences: bool,
    batch_size: int,
    draws: int,
    on_batch: Callable[[int], Any],
) -> dict[str, np.ndarray]:
    """Return the arrays of a ``utility`` cell: both models' outputs, averaged over the judge's draws.

    Args:
        raw: the undefended model.
        defended: the defended one.
        sample: clean test images.
        confidences: whether the softmax of the defended model's logits is a confidence.
        batch_size: images per call.
        draws: of a randomised model.
        on_batch: called after every batch with the number of images just done.
    """
    kind, refuses = KINDS[UTILITY], rejects(defended)
    names = (*kind.arrays, *(name for name in kind.optional if refuses or name != "rejected"))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for first in range(0, len(sample), batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), len(sample) - 1)
        keys = {
            name: judging_keys(model, batch_size, first=first, draws=draws)
            for name, model in (("raw_draws", raw), ("draws", defended))
        }
        batch = jnp.asarray(sample.images[rows]), jnp.asarray(sample.labels[rows])
        images, labels = place_rows(defended, batch)
        record = defense_record_of(raw, defended, images, labels, confidences=confidences, **keys)
        done = min(batch_size, len(sample) - first)
        for name, values in parts.items():
            values.append(on_host(getattr(record, name))[:done])
        on_batch(done)
    return {name: np.concatenate(values) for name, values in parts.items()}


def record_of_arrays(arrays: Mapping[str, np.ndarray], *, confidences: bool) -> DefenseRecord:
    """Return the record of the arrays of a ``utility`` cell."""
    kind = KINDS[UTILITY]
    there = [name for name in kind.optional if name in arrays]
    fields = {name: jnp.asarray(arrays[name]) for name in (*kind.arrays, *there)}
    return DefenseRecord(**fields, confidences=confidences)


def measure_utility(
    arrays: Mapping[str, np.ndarray], names: tuple[str, ...], *, confidences: bool
) -> dict[str, np.ndarray]:
    """Return column name -> values [N] of a ``utility`` cell's arrays."""
    record = record_of_arrays(arrays, confidences=confidences)
    columns = utility_columns(rejecting=True)
    return {name: np.asarray(columns[name].values(record), np.float64) for name in names}

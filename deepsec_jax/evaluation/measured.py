"""The metric columns of a cell's arrays, batch by batch, and the cost of one bare gradient."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.batches import OnBatch, in_batches, silent
from deepsec_jax.evaluation.judge import answers_of, judging_keys
from deepsec_jax.evaluation.machine import median_seconds
from deepsec_jax.explicit_meshes import on_automatic_mesh
from deepsec_jax.jit import jit_per_class
from deepsec_jax.metrics import METRICS, AttackRecord, measure
from deepsec_jax.placement import place_rows
from deepsec_jax.protocols import Classifier, Images, Keys, Labels
from deepsec_jax.randomness import example_keys, reseed, root_key


def record_of(
    model: Classifier,
    x: Images,
    x_adv: Images,
    labels: Labels,
    *,
    targets: Labels | None = None,
    first: int | jax.Array = 0,
    seconds: float = float("nan"),
    gradients: float = float("nan"),
    forwards: float = float("nan"),
    gradient_seconds: float = float("nan"),
) -> AttackRecord:
    """Return the record of an attack's result for metrics; success is measured independently.

    Args:
        model: the classifier that was attacked.
        x: clean images [B, H, W, C].
        x_adv: adversarial images [B, H, W, C].
        labels: true classes [B].
        targets: target classes [B], or None.
        first: index of the first image in its set, for the draws of a randomised model.
        seconds: wall time of the attack per image.
        gradients: gradients of the model per image.
        forwards: further forward passes per image.
        gradient_seconds: wall time per image of one bare gradient.
    """
    x, x_adv, labels = jnp.asarray(x), jnp.asarray(x_adv), as_labels(labels)
    targets = None if targets is None else as_labels(targets)
    before = answers_of(model, x, labels, targets, first=first).reached
    found = answers_of(model, x_adv, labels, targets, before=before, first=first)
    rows = x.shape[0]
    costs = {
        "seconds": seconds, "gradients": gradients, "forwards": forwards, "gradient_seconds": gradient_seconds
    }  # fmt: skip
    return AttackRecord(
        model=model, x=x, x_adv=x_adv, labels=labels, targets=targets,
        draws=judging_keys(model, rows, first=first), before=before, success=found.success,
        logits=found.logits, probabilities=found.probabilities, adversarial=found.adversarial,
        true=found.true, lead=found.lead, rejected=found.rejected,
        **{name: jnp.full(rows, cost, jnp.float32) for name, cost in costs.items()},
    )  # fmt: skip


@on_automatic_mesh
def measure_cell(
    model: Classifier,
    arrays: Mapping[str, np.ndarray],
    *,
    names: Sequence[str] = tuple(METRICS),
    batch_size: int = 128,
    seconds: float = float("nan"),
    gradients: float = float("nan"),
    forwards: float = float("nan"),
    gradient_seconds: float = float("nan"),
    on_batch: OnBatch = silent,
) -> dict[str, np.ndarray]:
    """Return metric column -> float64 values [N] of a cell's arrays.

    Args:
        model: the classifier that was attacked.
        arrays: ``x``, ``x_adv`` [N, H, W, C], ``labels`` and ``targets`` [N] (-1: untargeted).
        names: columns of ``deepsec_jax.metrics.METRICS``.
        batch_size: images per call; the last batch is padded and cut, to share the compiled program.
        seconds: wall time of the attack per image.
        gradients: gradients per image.
        forwards: further forward passes per image.
        gradient_seconds: wall time per image of one bare gradient.
        on_batch: called after every batch with its number of images.
    """
    rows = len(arrays["x"])
    batch_size = max(1, min(batch_size, rows))
    model = reseed(model, example_keys(root_key(0), batch_size))  # one key per row; draws replace them
    targeted = rows > 0 and int(arrays["targets"].min()) >= 0

    def measured(chosen: np.ndarray) -> dict[str, np.ndarray]:
        batch = {name: jnp.asarray(arrays[name][chosen]) for name in ("x", "x_adv", "labels", "targets")}
        batch = place_rows(model, batch)
        record = record_of(
            model, batch["x"], batch["x_adv"], batch["labels"],
            targets=batch["targets"] if targeted else None, first=int(chosen[0]),
            seconds=seconds, gradients=gradients, forwards=forwards, gradient_seconds=gradient_seconds,
        )  # fmt: skip
        return {name: column.astype(np.float64) for name, column in measure(record, names).items()}

    values = in_batches(measured, rows, batch_size, on_batch)
    return {name: values.get(name, np.zeros(0)) for name in names}


def bare_gradient_seconds(model: Classifier, x: Images, labels: Labels, *, repeats: int = 5) -> float:
    """Return the wall time per image of one compiled gradient of the loss: the unit of CC.

    Args:
        model: the classifier.
        x: one batch [B, H, W, C].
        labels: its classes [B].
        repeats: number of runs after the first; the result is their median.
    """
    rows = len(x)
    if not rows:
        return float("nan")
    keys = example_keys(root_key(0), rows)
    batch = place_rows(model, jax.device_put((np.asarray(x, np.float32), np.asarray(labels, np.int32))))
    return median_seconds(lambda: _bare_gradient(model, *batch, keys), repeats) / rows


@jit_per_class
def _bare_gradient(model: Classifier, x: Images, labels: Labels, keys: Keys) -> tuple[jax.Array, Images]:
    """Return loss and gradient: without the loss, XLA would compute nothing for a model without gradient."""

    def objective(point: Images) -> tuple[jax.Array, None]:
        return logit_gap(reseed(model, keys)(point), labels), None

    loss, _, gradient = value_and_gradient(objective, x)
    return loss, gradient

"""What a metric looks at: one immutable record of an attack's result, and success seen from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.answers import answered, as_labels, named, succeeded
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits
from deepsec_jax.pytree import Struct, rejects, reseed


class AttackRecord(Struct):
    """An attack's result on B images: a pytree that metrics only read.

    Attributes:
        model: the classifier that was attacked.
        x: clean images [B, H, W, C] in [0, 1].
        x_adv: adversarial images [B, H, W, C] in [0, 1].
        labels: true classes [B].
        targets: classes the images were driven to [B], or None where any wrong class counts.
        draws: None, or on a randomised model the keys [D, B] over which predictions are averaged.
        success: share of draws that succeeded [B]; 0 or 1 on a deterministic model.
        logits: mean logits on ``x_adv`` [B, K]; [B, K+1] of a model that rejects.
        probabilities: mean softmax of the logits of the classes on ``x_adv`` [B, K].
        seconds: wall time that the attack spent per image [B], compilation apart.
        gradients: gradients of the model that the attack spent per image [B]; NaN if not known.
        forwards: further forward passes per image [B]; NaN if not known.
        gradient_seconds: wall time per image of one bare gradient of the model in the same batch [B].
        rejected: share of draws in which the model refuses ``x_adv`` [B]; NaN of one that cannot.
    """

    model: Classifier
    x: Images
    x_adv: Images
    labels: Labels
    targets: Labels | None
    draws: Keys | None
    success: jax.Array
    logits: Logits
    probabilities: jax.Array
    seconds: jax.Array
    gradients: jax.Array
    forwards: jax.Array
    gradient_seconds: jax.Array
    rejected: jax.Array


class Answers(NamedTuple):
    """What a model says of images, float32; means over draws on a randomised model.

    Attributes:
        success: share of draws that succeed [B].
        logits: [B, K]; [B, K+1] of a model that rejects.
        probabilities: softmax of the logits of the classes [B, K].
        rejected: share of draws in which the image is refused [B]; NaN of a model that cannot.
        no_answer: share of draws in which the logits are no answer (NaN or +inf) [B]: neither success nor
            refusal, and left out of the means of logits and probabilities, which are NaN where none is left.
    """

    success: jax.Array
    logits: Logits
    probabilities: jax.Array
    rejected: jax.Array
    no_answer: jax.Array


def classify(
    model: Classifier, images: Images, labels: Labels, targets: Labels | None, draws: Keys | None
) -> Answers:
    """Return what the model says of the images, and on which of them the goal is reached.

    Success is any class but the label, or the target where there are targets; "rejected" is neither, and no
    answer (NaN) is none.

    Raises:
        ValueError: labels or targets are not [B].
    """
    refuses = rejects(model)
    labels, targets = as_labels(labels), None if targets is None else as_labels(targets)
    goal, targeted = (labels, False) if targets is None else (targets, True)
    for name, classes in (("labels", labels), ("targets", goal)):
        if jnp.shape(classes) != images.shape[:1]:  # else they would be compared all with all
            raise ValueError(f"{name} must be [{images.shape[0]}], got {list(jnp.shape(classes))}")

    def once(keys: Keys | None) -> Answers:
        chosen = model if keys is None else reseed(model, keys)
        logits = chosen(images).astype(jnp.float32)
        hit, silent = succeeded(logits, goal, targeted=targeted), (~answered(logits)).astype(jnp.float32)
        if not refuses:
            nothing = jnp.full(logits.shape[0], jnp.nan, jnp.float32)
            return Answers(hit.astype(jnp.float32), logits, jax.nn.softmax(logits, axis=-1), nothing, silent)
        classes = logits[:, :-1]
        refused = named(logits) == classes.shape[-1]
        return Answers(
            (hit & ~refused).astype(jnp.float32), logits, jax.nn.softmax(classes, axis=-1),
            refused.astype(jnp.float32), silent,
        )  # fmt: skip

    if draws is None:
        return once(None)
    each = lax.map(once, draws)
    spoke = each.no_answer == 0.0
    return Answers(
        each.success.mean(axis=0), _mean_where(spoke, each.logits), _mean_where(spoke, each.probabilities),
        each.rejected.mean(axis=0), each.no_answer.mean(axis=0),
    )  # fmt: skip


def _mean_where(chosen: jax.Array, parts: jax.Array) -> jax.Array:
    """Return the mean over those draws [D, B] that are chosen, of parts [D, B, K]; NaN where none is."""
    count = jnp.sum(chosen, axis=0, dtype=jnp.float32)[:, None]
    return jnp.sum(jnp.where(chosen[..., None], parts, 0.0), axis=0) / count


def success_on(record: AttackRecord, images: Images) -> jax.Array:
    """Return [B]: does the attack's goal still hold when the model sees these images instead."""
    return classify(record.model, images, record.labels, record.targets, record.draws).success


@dataclass(frozen=True)
class Column:
    """One column of figures: a per-example function and what a reader must know about it.

    Attributes:
        name: key in tables and files.
        metric: the paper's metric it belongs to.
        title: heading.
        formula: in words and symbols, one line.
        section: of the paper.
        unit: of the values.
        better: "higher", "lower" or "neither", from the side of whom the table is about: the attacker's in
            ``METRICS``, the defender's in ``DEFENSE_METRICS`` and ``DETECTION_METRICS``.
        over: the examples it is averaged over: "all", "successful" (attacks), or "both correct" (defenses:
            the raw and the defended model classify the image correctly), or "clean" (detectors: all clean
            test images).
        values: ``values(record) -> float[B]`` of an ``AttackRecord``, a ``DefenseRecord`` or a
            ``DetectionRecord``; a pure function on the device, or, where ``host`` is set, one that goes
            through a picture codec or NumPy on the host.
        rate: values are successes and failures, so that the mean is a share.
        host: see ``values``.
        quick: whether it stands in tables by default.
        measured_once: one measurement shared by all images, so that it has no interval.
        needs_confidences: of a defended model; NaN where it gives none.
        needs_rejection: NaN on a model that cannot reject, whose tables leave the column out.
    """

    name: str
    metric: str
    title: str
    formula: str
    section: str
    unit: str
    better: str
    over: str
    values: Callable[[Any], Any]
    rate: bool = False
    host: bool = False
    quick: bool = True
    measured_once: bool = False
    needs_confidences: bool = False
    needs_rejection: bool = False

"""What a metric looks at: one immutable record of an attack's result, and success seen from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits
from deepsec_jax.pytree import reseed


class AttackRecord(struct.PyTreeNode):
    """An attack's result on B images: a pytree that metrics only read.

    Attributes:
        model: the classifier that was attacked.
        x: clean images [B, H, W, C] in [0, 1].
        x_adv: adversarial images [B, H, W, C] in [0, 1].
        labels: true classes [B].
        targets: classes the images were driven to [B], or None where any wrong class counts.
        draws: None, or on a randomised model the keys [D, B] over which predictions are averaged.
        success: share of draws that succeeded [B]; 0 or 1 on a deterministic model.
        logits: mean logits on ``x_adv`` [B, K].
        probabilities: mean softmax of the logits on ``x_adv`` [B, K].
        seconds: wall time that the attack spent per image [B], compilation apart.
        gradients: gradients of the model that the attack spent per image [B]; NaN if not known.
        forwards: further forward passes per image [B]; NaN if not known.
        gradient_seconds: wall time per image of one bare gradient of the model in the same batch [B].
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


def classify(
    model: Classifier, images: Images, labels: Labels, targets: Labels | None, draws: Keys | None
) -> tuple[jax.Array, Logits, jax.Array]:
    """Return share of draws that succeed [B], mean logits and mean softmax [B, K], float32.

    Success is any class but the label, or the target where there are targets.
    """

    def once(keys: Keys | None) -> tuple[jax.Array, Logits, jax.Array]:
        chosen = model if keys is None else reseed(model, keys)
        logits = chosen(images).astype(jnp.float32)
        predicted = jnp.argmax(logits, axis=-1)
        hit = predicted != labels if targets is None else predicted == targets
        return hit.astype(jnp.float32), logits, jax.nn.softmax(logits, axis=-1)

    if draws is None:
        return once(None)
    success, logits, probabilities = lax.map(once, draws)
    return success.mean(axis=0), logits.mean(axis=0), probabilities.mean(axis=0)


def success_on(record: AttackRecord, images: Images) -> jax.Array:
    """Return [B]: does the attack's goal still hold when the model sees these images instead."""
    return classify(record.model, images, record.labels, record.targets, record.draws)[0]


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
            ``METRICS``, the defender's in ``DEFENSE_METRICS``.
        over: the examples it is averaged over: "all", "successful" (attacks), or "both correct" (defenses:
            the raw and the defended model classify the image correctly).
        values: ``values(record) -> float[B]`` of an ``AttackRecord``, or of a ``DefenseRecord``; a pure
            function on the device, or, where ``host`` is set, one that goes through a picture codec on
            the host.
        rate: values are successes and failures, so that the mean is a share.
        host: see ``values``.
        quick: whether it stands in tables by default.
        measured_once: one measurement shared by all images, so that it has no interval.
        needs_confidences: of a defended model; NaN where it gives none.
    """

    name: str
    metric: str
    title: str
    formula: str
    section: str
    unit: str
    better: str
    over: str
    values: Callable[[Any], jax.Array]
    rate: bool = False
    host: bool = False
    quick: bool = True
    measured_once: bool = False
    needs_confidences: bool = False

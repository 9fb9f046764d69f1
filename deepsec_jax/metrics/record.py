"""The input of an attack metric: one immutable record of an attack's result."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.answers import NO_CLASS, answered, as_labels, named, succeeded
from deepsec_jax.model_traits import gives_confidences, rejects
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import reseed


class AttackRecord(Struct):
    """An attack's result on B images; a read-only pytree.

    Attributes:
        model: the classifier that was attacked.
        x: clean images [B, H, W, C] in [0, 1].
        x_adv: adversarial images [B, H, W, C] in [0, 1].
        labels: true classes [B].
        targets: target classes [B], or None if any wrong class counts.
        draws: None, or on a randomised model the keys [D, B] over which predictions are averaged.
        before: whether ``x`` already reaches the goal, in each draw, bool [D, B]; [1, B] on a deterministic
            model. Such a draw is no success of the attack.
        success: share of draws that succeeded [B]; 0 or 1 on a deterministic model.
        logits: mean logits on ``x_adv`` [B, K]; [B, K+1] of a model that rejects.
        probabilities: mean softmax of the logits of the classes on ``x_adv`` [B, K]; NaN for a model without
            confidences.
        adversarial: probability of the class found, a mean over the draws that succeeded [B]; NaN without.
        true: probability of the true class, a mean over the same draws [B].
        lead: probability of the predicted class less that of the next one, a mean over the same draws [B].
        seconds: wall time of the attack per image [B], without compilation.
        gradients: gradients of the model per image [B]; NaN if unknown.
        forwards: further forward passes per image [B]; NaN if unknown.
        gradient_seconds: wall time per image of one bare gradient of the model in the same batch [B].
        rejected: share of draws in which the model rejects ``x_adv`` [B]; NaN if it cannot.
    """

    model: Classifier
    x: Images
    x_adv: Images
    labels: Labels
    targets: Labels | None
    draws: Keys | None
    before: jax.Array
    success: jax.Array
    logits: Logits
    probabilities: jax.Array
    adversarial: jax.Array
    true: jax.Array
    lead: jax.Array
    seconds: jax.Array
    gradients: jax.Array
    forwards: jax.Array
    gradient_seconds: jax.Array
    rejected: jax.Array


class Answers(NamedTuple):
    """A model's outputs on images, float32; means over draws on a randomised model.

    Attributes:
        reached: whether the goal is reached, in each draw, bool [D, B]; [1, B] on a deterministic model.
        success: share of draws in which it is reached, and was not reached before [B].
        correct: share of draws in which the class is the label [B].
        predicted: most frequent class, over the draws that succeeded if at least half did, else over all,
            int32 [B]; K means "rejected", NO_CLASS no answer in any draw.
        logits: [B, K]; [B, K+1] of a model that rejects.
        probabilities: softmax of the logits of the classes [B, K]; NaN for a model without confidences.
        adversarial: probability of the predicted class, a mean over the draws that succeeded [B]; NaN if none
            did, or for a model without confidences.
        true: probability of the label, a mean over the same draws [B].
        lead: largest less second largest probability, a mean over the same draws [B].
        rejected: share of draws in which the image is rejected [B]; NaN if the model cannot reject.
        no_answer: share of draws without an answer (NaN or +inf) [B].  Such a draw is neither a success nor a
            rejection. It is left out of the means of logits and probabilities, which are NaN if no draw
            remains.
        classes: class in each draw, int32 [D, B]; K means "rejected", NO_CLASS no answer.
    """

    reached: jax.Array
    success: jax.Array
    correct: jax.Array
    predicted: Labels
    logits: Logits
    probabilities: jax.Array
    adversarial: jax.Array
    true: jax.Array
    lead: jax.Array
    rejected: jax.Array
    no_answer: jax.Array
    classes: Labels


class _Totals(NamedTuple):
    """Sums over draws; for a single draw, its values."""

    success: jax.Array  # [B], as all but the last four
    correct: jax.Array
    adversarial: jax.Array
    true: jax.Array
    lead: jax.Array
    rejected: jax.Array
    no_answer: jax.Array
    logits: jax.Array  # [B, K or K+1], over draws with an answer
    probabilities: jax.Array  # [B, K], over the same draws
    found: jax.Array  # [B, K or K+1]: number of draws that predict each class
    found_in_success: jax.Array  # number of draws that succeeded


def classify(
    model: Classifier,
    images: Images,
    labels: Labels,
    targets: Labels | None,
    draws: Keys | None,
    before: jax.Array | None = None,
) -> Answers:
    """Return the model's outputs on the images, and where the goal is reached.

    The goal is any class except the label, or the target if there are targets.  Neither "rejected" nor no
    answer (NaN) reaches the goal.  A draw in which the goal was reached ``before`` is no success.  A
    randomised model is compared draw by draw under the same keys: a model that errs in 5 % of its draws also
    errs in them on adversarial images.  Draws are computed one after the other, so memory does not grow with
    their number.

    Args:
        model: the classifier.
        images: [B, H, W, C].
        labels: true classes [B].
        targets: [B], or None.
        draws: keys [D, B] of a randomised model, or None.
        before: ``reached`` of the images before the attack, bool [D, B]; None means nowhere.

    Raises:
        ValueError: labels or targets are not [B].
    """
    refuses, confident = rejects(model), gives_confidences(model)
    labels, targets = as_labels(labels), None if targets is None else as_labels(targets)
    goal, targeted = (labels, False) if targets is None else (targets, True)
    for name, classes in (("labels", labels), ("targets", goal)):
        if jnp.shape(classes) != images.shape[:1]:  # otherwise they would broadcast against [B]
            raise ValueError(f"{name} must be [{images.shape[0]}], got {list(jnp.shape(classes))}")
    count = 1 if draws is None else draws.shape[0]
    earlier = jnp.zeros((count, images.shape[0]), bool) if before is None else before

    def once(keys: Keys | None, earlier: jax.Array) -> tuple[_Totals, tuple[jax.Array, Labels]]:
        chosen = model if keys is None else reseed(model, keys)
        logits = chosen(images).astype(jnp.float32)
        classes = logits[:, :-1] if refuses else logits
        found, spoke = named(logits), answered(logits)
        refused = found == classes.shape[-1]
        reached = succeeded(logits, goal, targeted=targeted) & ~refused
        success = reached & ~earlier
        shares = jax.nn.softmax(classes, axis=-1) if confident else jnp.full_like(classes, jnp.nan)
        top, second = jnp.moveaxis(lax.top_k(shares, 2)[0], -1, 0)
        of_label = jnp.take_along_axis(shares, labels[:, None], axis=-1)[:, 0]
        counted = jax.nn.one_hot(found, logits.shape[-1])  # NO_CLASS has no column

        def if_success(values: jax.Array) -> jax.Array:
            return jnp.where(success, values, 0.0)

        return _Totals(
            success=success.astype(jnp.float32), correct=(found == labels).astype(jnp.float32),
            adversarial=if_success(top), true=if_success(of_label), lead=if_success(top - second),
            rejected=refused.astype(jnp.float32) if refuses else jnp.full(top.shape, jnp.nan, jnp.float32),
            no_answer=(~spoke).astype(jnp.float32),
            logits=jnp.where(spoke[:, None], logits, 0.0),
            probabilities=jnp.where(spoke[:, None], shares, 0.0),
            found=counted, found_in_success=jnp.where(success[:, None], counted, 0.0),
        ), (reached, found)  # fmt: skip

    def add(totals: _Totals, draw: tuple[Keys, jax.Array]) -> tuple[_Totals, tuple[jax.Array, Labels]]:
        more, each = once(*draw)
        return jax.tree.map(jnp.add, totals, more), each

    if draws is None:
        totals, (reached, found) = once(None, earlier[0])
        return _averages(totals, reached[None], found[None])
    shapes = jax.eval_shape(once, draws[0], earlier[0])[0]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    totals, (reached, found) = lax.scan(add, nothing, (draws, earlier))
    return _averages(totals, reached, found)


def _averages(totals: _Totals, reached: jax.Array, classes: Labels) -> Answers:
    """Return the means over the draws of ``reached`` [D, B]; NaN without a draw to average."""
    draws = jnp.float32(reached.shape[0])
    spoke, successes = draws - totals.no_answer, totals.success
    often = jnp.where((2.0 * successes >= draws)[:, None], totals.found_in_success, totals.found)
    predicted = jnp.where(spoke > 0, jnp.argmax(often, axis=-1).astype(jnp.int32), NO_CLASS)
    return Answers(
        reached=reached, success=successes / draws, correct=totals.correct / draws, predicted=predicted,
        logits=totals.logits / spoke[:, None], probabilities=totals.probabilities / spoke[:, None],
        adversarial=totals.adversarial / successes, true=totals.true / successes,
        lead=totals.lead / successes, rejected=totals.rejected / draws, no_answer=totals.no_answer / draws,
        classes=classes,
    )  # fmt: skip


def success_on(record: AttackRecord, images: Images, *, before: jax.Array | None = None) -> jax.Array:
    """Return [B]: whether the attack's goal still holds on these images instead of ``x_adv``.

    Args:
        record: the attack's result.
        images: [B, H, W, C].
        before: where the goal is reached without the attack, bool [D, B]; default on the clean images.
    """
    before = record.before if before is None else before
    return classify(record.model, images, record.labels, record.targets, record.draws, before).success


@dataclass(frozen=True)
class Column:
    """One column of figures: a per-example function and its description.

    Attributes:
        name: key in tables and files.
        metric: the paper's metric that it belongs to.
        title: heading.
        formula: in words and symbols, one line.
        section: of the paper.
        unit: of the values.
        better: "higher", "lower" or "neither": for the attacker in ``METRICS``, for the defender in
            ``DEFENSE_METRICS`` and ``DETECTION_METRICS``.
        over: the examples of the mean: "all", "successful" (attacks), "both correct" (defenses: the raw and
            the defended model classify the image correctly), or "clean" (detectors: all clean test images).
        values: ``values(record) -> float[B]`` of an ``AttackRecord``, a ``DefenseRecord`` or a
            ``DetectionRecord``; a pure function on the device, or, if ``host`` is set, a function with an
            image codec or NumPy on the host.
        rate: values are 0 or 1, so the mean is a share; or, with bounds (-1, 1), differences of such values.
        bounds: smallest and largest possible value, for the interval of the mean; (0, 1) by default for a
            rate.
        host: see ``values``.
        quick: whether it is in tables by default.
        measured_once: one measurement shared by all images, so it has no interval.
        needs_confidences: NaN for a model without confidences, see
            :func:`deepsec_jax.model_traits.gives_confidences`.
        needs_rejection: NaN for a model that cannot reject; its tables leave the column out.
        hides_zero: tables leave the column out if all its values are 0.
        version: version of the values.  Increase it with every change of the values: then stored columns of
            earlier versions are computed again, and their cells are not.
        program: a program that must be on the PATH; without it the column does not exist.
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
    bounds: tuple[float, float] | None = None
    host: bool = False
    quick: bool = True
    measured_once: bool = False
    needs_confidences: bool = False
    needs_rejection: bool = False
    hides_zero: bool = False
    version: int = 1
    program: str = ""

    @property
    def limits(self) -> tuple[float, float]:
        """``bounds``, infinite where unknown."""
        if self.bounds is not None:
            return self.bounds
        return (0.0, 1.0) if self.rate else (-math.inf, math.inf)

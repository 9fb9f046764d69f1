"""A defended model under attack: images replayed on it, made on it, or made through its surrogate."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks import APGD, PGD, Square, Transfer, losses, run_in_batches
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.parts import Cosine, Momentum, at_input
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.batches import OnBatch
from deepsec_jax.evaluation.judge import answers_of, confidence_of
from deepsec_jax.evaluation.machine import compile_clock
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.metrics import Column
from deepsec_jax.protocols import Attack, Classifier, Key
from deepsec_jax.pytree import example_keys, jit_per_class, reseed

SHARE = 0.08
"""Of an image, that a square of the guided search covers at most: 8 x 8 pixels of MNIST's."""


@dataclass(frozen=True)
class Made:
    """Adversarial images and what they cost.

    Attributes:
        x_adv: float32 [N, H, W, C].
        seconds: wall time without compilation.
        compile_seconds: wall time of compilation.
        gradients: gradients per image, the mean over all N.
        forwards: forwards beside those in gradients, per image, the mean over all N.
        felled: how many images each attack in turn has brought down, where there are several.
    """

    x_adv: np.ndarray
    seconds: float
    compile_seconds: float
    gradients: float
    forwards: float = 0.0
    felled: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What a model says of images, averaged over draws.

    Attributes:
        correct: share of draws with the true class, float32 [N].
        holds: share of draws with the true class, or rejected, float32 [N].
        fooled: share of draws with a wrong class, float32 [N]: what an attacker wants.
        rejected: share of draws that are rejected, float32 [N]; NaN of a model that cannot reject.
        no_answer: share of draws without an answer (NaN or +inf), neither right nor fooled, float32 [N].
        predicted: class of most draws, int32 [N]; K says "rejected", -1 that there is no answer.
        confidence: probability of that class, float32 [N]; NaN of a model without confidences.
        probabilities: float32 [N, K]; NaN of a model without confidences.
        margins: largest other logit less the true class's, or that of "rejected" if it is larger, float32
            [N]; above 0 is wrong.
    """

    correct: np.ndarray
    holds: np.ndarray
    fooled: np.ndarray
    rejected: np.ndarray
    no_answer: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray
    margins: np.ndarray


def ask(
    model: Classifier, images: np.ndarray, labels: np.ndarray, *, batch_size: int, key: Key | None = None
) -> Answers:
    """Classify all images; draws of a randomised model come from ``key``, by default the judge's."""
    parts: list[tuple[jax.Array, ...]] = []
    for first in range(0, len(images), batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), len(images) - 1)
        batch, true = jnp.asarray(images[rows]), as_labels(labels[rows])
        found = answers_of(model, batch, true, key=key, first=first)
        margins = losses.max_margin(open_logits(model, found.logits, true, targeted=False), true)
        holds = jnp.maximum(1.0 - found.success - found.no_answer, 0.0)
        parts.append(
            (
                found.correct, holds, found.success, found.rejected, found.no_answer, found.predicted,
                confidence_of(found), found.probabilities, margins,
            )
        )  # fmt: skip
    return Answers(*(np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True)))


def make(
    attack: Any, model: Classifier, sample: Sample, *, key: Key, batch_size: int, on_batch: OnBatch
) -> Made:
    """Run an untargeted attack whose work is the same for every image on the whole sample."""
    model = reseed(model, example_keys(key, batch_size))  # one key per row of a batch, whatever it had
    started = time.perf_counter()
    with compile_clock() as compile_seconds:
        x_adv = run_in_batches(
            attack, model, sample.images, sample.labels, key=key, batch_size=batch_size, on_batch=on_batch
        )
    seconds = time.perf_counter() - started
    return Made(x_adv, max(0.0, seconds - compile_seconds()), compile_seconds(), float(attack.steps))


def has_gradient(model: Classifier, sample: Sample, *, key: Key, batch_size: int) -> bool:
    """Tell whether the loss of any image has a gradient that is not zero; host code.

    A model of votes or of codes has none anywhere: then PGD would report its random starts as an attack.
    Most models have one in the first batch, and no further one is looked at.
    """
    model = reseed(model, example_keys(key, batch_size))
    for first in range(0, len(sample), batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), len(sample) - 1)
        found = _gradients(model, jnp.asarray(sample.images[rows]), jnp.asarray(sample.labels[rows]))
        if bool(jnp.any(found)):
            return True
    return False


@jit_per_class
def _gradients(model: Classifier, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Return bool [B]: the image's gradient has an entry that is a number and not zero."""

    def loss(x: jax.Array) -> tuple[jax.Array, None]:
        return losses.logit_gap(open_logits(model, model(x), labels, targeted=False), labels), None

    gradient = value_and_gradient(loss, x)[2]
    return jnp.any(jnp.isfinite(gradient) & (gradient != 0), axis=(1, 2, 3))


def adaptive_runs(
    surrogate: Any,
    *,
    eps: float,
    steps: int,
    aims: int,
    rounds: int,
    stops: bool,
    joint: Mapping[str, Any] | None = None,
    search: Attack | None = None,
) -> list[Any]:
    """Return the attacks of the adaptive column, in their order.

    APGD from the clean image along the cross-entropy's direction; APGD on the margin towards each of the
    ``aims`` nearest wrong classes in turn, from random starts; on a guarded model then :func:`joint_runs`;
    last a search that needs no gradient, which must not find what gradients do not.

    Args:
        surrogate: what is differentiated; a ``Guarded`` where there is a ``joint`` attack.
        eps: radius.
        steps: of each run of APGD.
        aims: wrong classes.
        rounds: runs towards each.
        stops: whether an image is done where the surrogate is fooled; False where the model may still hold,
            and a larger margin carries farther.
        joint: arguments of :func:`joint_runs`.
        search: the last attack, made ready to run on the defended model; None for none.
    """
    apgd = APGD(eps=eps, steps=steps, stops=stops)
    aimed = apgd.replace(aims=aims, nearest=True, restarts=rounds, aimed=losses.margin_to)
    runs: list[Any] = [Transfer(each, surrogate) for each in (apgd.replace(start=at_input), aimed)]
    if joint is not None:
        runs += joint_runs(surrogate, eps=eps, steps=steps, **joint)
    return runs if search is None else [*runs, search]


def joint_runs(
    surrogate: Any,
    *,
    eps: float,
    step_size: float,
    steps: int,
    restarts: int,
    names: Sequence[str],
    decay: float,
    weights: Sequence[float],
    confident: int,
) -> list[Transfer]:
    """Return the runs against a model and its detector: ``restarts`` of PGD for each loss.

    The restarts take turns in how much the detector weighs, for the best weight differs from detector to
    detector.  Steps shrink to nothing, as a cosine: those of one length keep every pixel going to and fro,
    which a tight detector sees.  They follow a momentum: alone, a gradient at the edge between fooling the
    model and being flagged points to one of both, in turn.  Before them come ``confident`` runs on the model
    without its detector, whose margin is driven as far as the ball lets it: some detectors miss what is wrong
    with confidence.

    Args:
        surrogate: what is differentiated; a ``Guarded`` where there are ``weights`` or confident runs.
        eps: radius.
        step_size: of PGD's first step.
        steps: of each run.
        restarts: runs per loss.
        names: of losses.
        decay: of the momentum.
        weights: values of ``Guarded.weight``, in turn over all restarts; none leaves the surrogate as it is.
        confident: number of runs on the bare model.
    """

    def through(model: Classifier, name: str) -> Transfer:
        rule = Cosine(float(steps), Momentum(decay))
        return Transfer(
            PGD(eps=eps, step_size=step_size, steps=steps, loss=losses.LOSSES[name], rule=rule), model
        )

    weighed = [surrogate.replace(weight=weight) for weight in weights] or [surrogate]
    every = [name for name in names for _ in range(restarts)]
    bare = [through(surrogate.model, "max_margin") for _ in range(confident)]
    return [*bare, *(through(weighed[turn % len(weighed)], name) for turn, name in enumerate(every))]


def guided_search(surrogate: Classifier, *, eps: float, queries: int, stops: bool) -> Transfer:
    """Return a search along what gradients say, for models without one that leads all the way."""
    search = Square(eps=eps, queries=queries, share=SHARE, guided=True, shrinking=False, stops=stops)
    return Transfer(search, surrogate)


def _robust(arrays: Mapping[str, np.ndarray]) -> jax.Array:
    """Return the share of draws in which an image stays right; an attacker may also leave it as it is."""
    return jnp.minimum(arrays["clean"], arrays["right_or_rejected"])


def _clean(arrays: Mapping[str, np.ndarray]) -> jax.Array:
    return jnp.asarray(arrays["clean"])


def _column(name: str, title: str, formula: str, values: Callable[[Any], jax.Array] = _robust) -> Column:
    return Column(name, "robust", title, formula, "ours", "share", "higher", "all", values, rate=True)


ROBUSTNESS_COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        _column("clean", "Clean", "share of the n images that are classified correctly", _clean),
        _column("replayed", "Replayed", "share that stays correct on PGD images of the undefended model"),
        _column("white_box", "White-box", "share that stays correct on PGD images of the model itself"),
        _column("adaptive", "Adaptive", "share that stays correct on what is made through the surrogate"),
        _column("worst", "Worst", "share that stays correct on all of these"),
    )
}  # fmt: skip
"""Accuracy under attack, one value per image of the sample: 1 or 0, or a share of draws.  ``values`` takes
the arrays of a cell; ``worst`` is taken over cells, by the report.  An image that is rejected counts as an
error where it is clean, and as not fooled where it was made."""


def _refused(column: Column) -> Column:
    name = "clean_rejected" if column.name == "clean" else "rejected"
    images = "clean images" if column.name == "clean" else f"{column.title.lower()} images"
    return Column(
        f"{column.name}_rejected", "robust", f"{column.title} rejected",
        f"share of the n {images} that are rejected", "ours", "share", "neither", "all",
        lambda arrays: jnp.asarray(arrays[name]), rate=True, needs_rejection=True,
    )  # fmt: skip


REJECTION_COLUMNS: dict[str, Column] = {
    name: _refused(column) for name, column in ROBUSTNESS_COLUMNS.items() if name != "worst"
}
"""Column under attack -> how many of its images a model that can reject has refused; as values of cells they
go by their own names, ``adaptive_rejected``."""

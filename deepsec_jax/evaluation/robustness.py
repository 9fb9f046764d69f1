"""A defended model under attack: images replayed on it, made on it, or made through its surrogate."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import PGD, Transfer, losses, run_in_batches
from deepsec_jax.evaluation.clock import compile_clock
from deepsec_jax.evaluation.judge import judge
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.metrics import Column
from deepsec_jax.protocols import Attack, Classifier, Key
from deepsec_jax.pytree import example_keys, reseed

OnBatch = Callable[[int], Any]


@dataclass(frozen=True)
class Made:
    """Adversarial images and what they cost.

    Attributes:
        x_adv: float32 [N, H, W, C].
        seconds: wall time without compilation.
        compile_seconds: wall time of compilation.
        gradients: gradients per image, the mean over all N.
    """

    x_adv: np.ndarray
    seconds: float
    compile_seconds: float
    gradients: float


@dataclass(frozen=True)
class Answers:
    """What a model says of images, averaged over draws.

    Attributes:
        correct: share of draws with the true class, float32 [N].
        probabilities: float32 [N, K].
        margins: largest other logit less the true class's, float32 [N]; above 0 is wrong.
    """

    correct: np.ndarray
    probabilities: np.ndarray
    margins: np.ndarray


def ask(
    model: Classifier, images: np.ndarray, labels: np.ndarray, *, batch_size: int, key: Key | None = None
) -> Answers:
    """Classify all images; draws of a randomised model come from ``key``, by default the judge's."""
    parts: list[tuple[jax.Array, ...]] = []
    for first in range(0, len(images), batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), len(images) - 1)
        batch, true = jnp.asarray(images[rows]), jnp.asarray(labels[rows])
        found = judge(model, batch, batch, true, key=key, first=first)
        margins = losses.max_margin(found.logits, true)
        parts.append((1.0 - found.success, found.probabilities, margins))
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


def adaptive_runs(
    surrogate: Classifier, *, eps: float, step_size: float, steps: int, restarts: int, names: Sequence[str]
) -> list[Transfer]:
    """Return the runs of the adaptive attack: ``restarts`` of PGD through the surrogate for each loss."""
    runs = [
        Transfer(PGD(eps=eps, step_size=step_size, steps=steps, loss=losses.LOSSES[name]), surrogate)
        for name in names
    ]
    return [run for run in runs for _ in range(restarts)]


def cascade(
    runs: Sequence[Attack],
    model: Classifier,
    sample: Sample,
    *,
    key: Key,
    batch_size: int,
    on_batch: OnBatch,
    steps: int,
) -> Made:
    """Run attacks one after the other, each only on images that the model still gets right.

    ``attacks.Cascade`` for a whole sample: here survivors of all batches fill new ones, so that a model that
    falls at once costs one run and not all, and equal runs share their compiled code.  An image counts as
    fallen when the model is wrong in every draw, and keeps what brought it there; of a survivor the image of
    fewest correct draws, then of largest margin, is kept.  Clean images that are wrong already stay as they
    are.  The attacker's draws of a randomised model are not the judge's.

    Args:
        runs: untargeted attacks.
        model: the defended model.
        sample: the clean images.
        key: root of all that is drawn.
        batch_size: images per call.
        on_batch: told of images, in all as many as the sample has.
        steps: gradients per image of one run.
    """
    draw_key, attack_key = jax.random.split(key)
    model = reseed(model, example_keys(key, batch_size))
    started, best = time.perf_counter(), sample.images.copy()
    meter = _Share(on_batch, len(sample), len(runs))
    spent = 0
    with compile_clock() as compile_seconds:
        judged = ask(model, best, sample.labels, batch_size=batch_size, key=draw_key)
        correct, margins = judged.correct.copy(), judged.margins.copy()
        for number, run in enumerate(runs):
            rows = np.flatnonzero(correct > 0)
            meter.fallen(number, len(sample) - len(rows))
            if not len(rows):
                break
            keys = example_keys(jax.random.fold_in(attack_key, number), len(sample))[rows]
            found = run_in_batches(
                run, model, sample.images[rows], sample.labels[rows],
                key=keys, batch_size=batch_size, on_batch=meter.tell,
            )  # fmt: skip
            spent += steps * len(rows)
            tried = best.copy()
            tried[rows] = found
            judged = ask(model, tried, sample.labels, batch_size=batch_size, key=draw_key)
            better = (judged.correct < correct) | ((judged.correct == correct) & (judged.margins > margins))
            better &= np.isin(np.arange(len(sample)), rows)
            best[better] = tried[better]
            correct[better], margins[better] = judged.correct[better], judged.margins[better]
    seconds = time.perf_counter() - started
    return Made(best, max(0.0, seconds - compile_seconds()), compile_seconds(), spent / max(1, len(sample)))


class _Share:
    """Turns the images of several runs into as many as the sample has, for progress; host code."""

    def __init__(self, on_batch: OnBatch, images: int, runs: int) -> None:
        self.on_batch, self.images, self.runs = on_batch, images, runs
        self.done, self.told = 0, 0

    def fallen(self, run: int, rows: int) -> None:
        self.done = run * self.images
        self.tell(rows)

    def tell(self, rows: int) -> None:
        self.done += rows
        reached = self.done // self.runs
        if reached > self.told:
            self.on_batch(reached - self.told)
            self.told = reached


def _robust(arrays: Mapping[str, np.ndarray]) -> jax.Array:
    """Return the share of draws in which an image stays right; an attacker may also leave it as it is."""
    return jnp.minimum(arrays["clean"], arrays["correct"])


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
the arrays of a cell; ``worst`` is taken over cells, by the report."""

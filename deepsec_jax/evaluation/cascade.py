"""Attacks in sequence on a whole data set, each on the images that are not fooled yet; AutoAttack."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import AutoAttack, FixedImages, Transfer, run_in_batches
from deepsec_jax.attacks.batching import check_values
from deepsec_jax.attacks.cost import Cost, Counted, cost
from deepsec_jax.batches import OnBatch, batches, silent
from deepsec_jax.evaluation.machine import compile_clock
from deepsec_jax.evaluation.predictions import Predictions, predict
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Classifier, Key
from deepsec_jax.randomness import example_keys, is_randomised, reseed, typed_key

STANDS, ALREADY = -1, -2
"""Instead of an attack's number: no attack has fooled the model; the clean image does already."""


@dataclass(frozen=True)
class Cascaded:
    """Result and cost of each image.

    Attributes:
        x_adv: float32 [N, H, W, C]: the first success, or without one the image with most wrong draws, then
            with the largest margin.
        fooled: share of draws in which the model is wrong, float32 [N]; 1 or 0 for a deterministic model.
        by: number of the attack that made it wrong in every draw, :data:`STANDS` or :data:`ALREADY`, int32
            [N].
        gradients: per image, float64 [N], including those of a surrogate.
        forwards: per image without those in gradients, float64 [N]; judging is not counted.
        seconds: wall time without compilation.
        compile_seconds: wall time of compilation.
    """

    x_adv: np.ndarray
    fooled: np.ndarray
    by: np.ndarray
    gradients: np.ndarray
    forwards: np.ndarray
    seconds: float
    compile_seconds: float

    @property
    def robust(self) -> float:
        """Share of images that are not fooled, clean errors included as errors; a mean over draws."""
        return float(np.mean(1.0 - self.fooled)) if len(self.fooled) else float("nan")


def autoattack(
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    eps: float,
    norm: str = "linf",
    version: str = "standard",
    key: Key,
    batch_size: int = 128,
    on_batch: OnBatch | None = None,
) -> Cascaded:
    """Run AutoAttack on any number of images; the remaining images of all batches form new ones of one size.

    An image's result depends only on the image, its index in the data set and the key.  A randomised model
    counts as fooled if it is wrong in each of ten draws.

    Args:
        model: a classifier in evaluation mode.
        images: float [N, H, W, C] in [0, 1].
        labels: true classes [N].
        eps: radius, in units of the [0, 1] pixel range.
        norm: "linf" or "l2".
        version: of :data:`deepsec_jax.attacks.autoattack.VERSIONS`.
        key: root of all random numbers.
        batch_size: images per call.
        on_batch: called with numbers of images; their sum is the number of images.

    Raises:
        ValueError: a value outside [0, 1], an invalid label.
        UnknownName: no such version.
    """
    check_values(model, images, labels)
    images = np.asarray(images, np.float32)
    sample = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    members = AutoAttack(eps=eps, norm=norm, version=version).members(classes_of(model, sample))
    return run_cascade(members, model, images, labels, key=key, batch_size=batch_size, on_batch=on_batch)


def run_cascade(
    attacks: Sequence[Any],
    model: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    key: Key,
    batch_size: int,
    clean: Predictions | None = None,
    on_batch: OnBatch | None = None,
) -> Cascaded:
    """Run attacks one after the other, each only on images that do not fool the model in every draw.

    ``attacks.Cascade`` for a whole data set: the remaining images of all batches form new batches, so a weak
    model costs one run only, and equal runs share their compiled code.  An image is fooled if the model is
    wrong in every draw, and keeps that result.  Otherwise it keeps the result with most wrong draws, then
    with the largest margin.  Misclassified clean images are unchanged.  No answer (NaN) is not wrong, and
    such an image has no margin.  The attacker's draws of a randomised model differ from the judge's.

    Args:
        attacks: untargeted attacks, such as ``Transfer(attack, surrogate)``; :class:`FromBest` marks a search
            that starts at the best image so far.
        model: the model to fool.
        images: float32 [N, H, W, C] in [0, 1].
        labels: true classes [N].
        key: root of all random numbers.
        batch_size: images per call.
        clean: predictions on the images, if they are known; not used for a randomised model, since the
            attacker has draws of its own.
        on_batch: called with numbers of images; their sum is the number of images.
    """
    draw_key, attack_key = jax.random.split(typed_key(key))
    rows = len(images)
    if not rows:
        nothing = np.zeros(0)
        return Cascaded(np.array(images), nothing, nothing.astype(np.int32), nothing, nothing, 0.0, 0.0)
    batch_size = max(1, min(batch_size, rows))
    model = reseed(model, example_keys(key, batch_size))
    started, best = time.perf_counter(), np.array(images)
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    prices = [declared(attack, classes_of(model, one), images[0].size) for attack in attacks]
    meter = Share(on_batch or silent, rows, [_weight(price) for price in prices])
    gradients, forwards = np.zeros(rows), np.zeros(rows)
    random = is_randomised(model)  # the draws of a row depend on its place, so all rows are asked again
    with compile_clock() as compile_seconds:
        judged = clean
        if judged is None or random:
            judged = predict(model, best, labels, batch_size=batch_size, key=draw_key)
        fooled, margins = judged.fooled.copy(), judged.margins.copy()
        by = np.where(fooled >= 1, ALREADY, STANDS).astype(np.int32)
        for number, attack in enumerate(attacks):
            left = np.flatnonzero(fooled < 1)
            meter.fallen(number, rows - len(left))
            if not len(left):
                break
            keys = example_keys(jax.random.fold_in(attack_key, number), rows)[left]
            tried = best.copy()
            for cut, part in _parts(attack, best[left], batch_size):
                chosen = left[cut]
                counts: list[Counted] = []
                searched, asked_model = part, model
                if isinstance(part, Transfer):  # which does not count
                    searched = part.attack
                    asked_model = reseed(part.surrogate, example_keys(key, batch_size))
                tried[chosen] = run_in_batches(
                    searched, asked_model, images[chosen], labels[chosen],
                    key=keys[cut], batch_size=batch_size, on_batch=meter.tell, on_counts=counts.append,
                )  # fmt: skip
                spent = _spent(counts, prices[number])
                gradients[chosen] += spent[0]
                forwards[chosen] += spent[1]
            asked = np.arange(rows) if random else left
            judged = predict(model, tried[asked], labels[asked], batch_size=batch_size, key=draw_key)
            wrong, margin = fooled.copy(), margins.copy()
            wrong[asked], margin[asked] = judged.fooled, judged.margins
            farther = (margin > margins) | (np.isnan(margins) & ~np.isnan(margin))
            better = (wrong > fooled) | ((wrong == fooled) & farther)
            better &= np.isin(np.arange(rows), left)
            best[better] = tried[better]
            fooled[better], margins[better] = wrong[better], margin[better]
            by[better & (fooled >= 1)] = number
    seconds = time.perf_counter() - started
    compiled = compile_seconds()
    return Cascaded(best, fooled, by, gradients, forwards, max(0.0, seconds - compiled), compiled)


@dataclass(frozen=True)
class FromBest:
    """A search that starts at the best image so far, instead of at one of its own.

    Attributes:
        attack: ``Square``, or a ``Transfer`` of it.
    """

    attack: Any


def declared(attack: Any, classes: int, entries: int) -> Cost:
    """Return the declared cost of an attack, of the inner one of a ``Transfer``; NaN if there is none."""
    inner = attack.attack if isinstance(attack, FromBest) else attack
    inner = inner.attack if isinstance(inner, Transfer) else inner
    return cost(inner, classes=classes, entries=entries) or Cost(math.nan, math.nan, exact=False)


def _weight(price: Cost) -> int:
    """Return the share of an attack in the progress; 1 where its cost is unknown."""
    calls = price.forwards + price.gradients
    return 1 if math.isnan(calls) else max(1, round(calls))


def _spent(counts: list[Counted], price: Cost) -> tuple[Any, Any]:
    """Return gradients and forwards of each row; the declared cost of an attack that does not count."""
    if not counts:
        return price.gradients, price.forwards
    gradients = np.concatenate([part.gradients for part in counts])
    return gradients, np.concatenate([part.forwards for part in counts])


def _parts(attack: Any, best: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, Any]]:
    """Return rows and their attack: all together, or batches of a search from the best so far."""
    if not isinstance(attack, FromBest):
        yield np.arange(len(best)), attack
        return
    search: Any = attack.attack
    for padded in batches(len(best), batch_size):  # one at a time: the images are on the device
        cut = np.unique(padded)
        start = FixedImages(jnp.asarray(best[cut]))
        if isinstance(search, Transfer):
            inner: Any = search.attack
            yield cut, search.replace(attack=inner.replace(start=start))
        else:
            yield cut, search.replace(start=start)


class Share:
    """Converts the progress of several runs to a number of images; host code.

    A run is weighted by its calls per image, since a search takes as long as many ascents.
    """

    def __init__(self, on_batch: OnBatch, images: int, costs: Sequence[int]) -> None:
        self.on_batch, self.images, self.costs = on_batch, images, costs
        self.run, self.done, self.told = 0, 0, 0

    def fallen(self, run: int, rows: int) -> None:
        """Start a run that skips this number of images."""
        self.run, self.done = run, self.images * sum(self.costs[:run])
        self.tell(rows)

    def tell(self, rows: int) -> None:
        """Record that the run has finished this number of images."""
        self.done += rows * self.costs[self.run]
        reached = self.done // max(1, sum(self.costs))
        if reached > self.told:
            self.on_batch(reached - self.told)
            self.told = reached

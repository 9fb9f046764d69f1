"""What stops a joint attack on FS: each squeezer alone, over several L-inf radii.

Four models for each radius, attacked as in the adaptive column of ``deepsec evaluate defenses``, but with
one loss: the model behind 1-bit rounding and nothing else, and the model guarded by FS with rounding, with
the median, and with both.  Thresholds are set on clean images for 4 %, as ``deepsec defend fs`` does; they
lie far below 1, so what fools a guard with confidence fools the model on the squeezed image too, and what
an attack reaches behind rounding alone is about the most that it can reach on a guard that rounds.  No
gradient is needed to see that: behind rounding an image is a choice of pixels to flip among those in reach
of 0.5, and where they are few, a greedy search flips the best one again and again.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import table, write_json
from deepsec_jax import data, defenses, training
from deepsec_jax.attacks.losses import max_margin
from deepsec_jax.defenses.base import base_of
from deepsec_jax.defenses.fs import Rounded, SmoothlyRounded
from deepsec_jax.evaluation.adaptive import joint_runs
from deepsec_jax.evaluation.cascade import run_cascade
from deepsec_jax.evaluation.defense_cells import DECAY, FIRST
from deepsec_jax.evaluation.predictions import predict
from deepsec_jax.evaluation.sample import Sample, draw_sample
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.progress import progress
from deepsec_jax.pytree import Struct

WEIGHTS = (1.0, 0.3, 3.0)
"""Of the detector, in turn: three of the four of ``deepsec evaluate defenses``."""


class Behind(Struct):
    """A model that sees images only through one transform."""

    model: Any
    transform: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits [B, K]."""
        return self.model(self.transform(x))


def main() -> None:
    """Attack, judge, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", help="folder of a model of grey images")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6])
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default="benchmarks/results")
    options = parser.parse_args()
    saved = training.load_model(options.subject)
    known = data.load(saved.recipe.data, data_dir=options.data_dir)
    sample = draw_sample(known.test, options.n, seed=0)
    rows: list[list[Any]] = []
    pairs = subjects(saved, known)
    with progress("joint attack", len(options.eps) * len(pairs) * options.n) as advance:
        for eps in options.eps:
            found: list[Any] = [eps, midway(sample.images, eps), flipped(saved.model, sample, eps)]
            for _, model, surrogate in pairs:
                found += attacked(model, surrogate, sample, eps, options, advance)
            rows.append(found)
    head = ["eps", "pixels in reach of 0.5, %", "behind rounding, greedy flips: fooled, %"]
    for name, _, _ in pairs:
        head += [f"{name}: fooled, %", "rejected, %"] if name != "behind rounding" else [f"{name}: fooled, %"]
    write_json(options.out, "joint-squeezing", {
        "subject": options.subject, "n": options.n, "steps": options.steps, "restarts": options.restarts,
        "head": head, "rows": rows,
    })  # fmt: skip
    print(table(head, rows))


def subjects(saved: training.Saved, known: data.Dataset) -> list[tuple[str, Any, Any]]:
    """Return name, model and surrogate of the four that are attacked."""
    model = saved.model
    pairs: list[tuple[str, Any, Any]] = [
        ("behind rounding", Behind(model, Rounded(1)), Behind(model, SmoothlyRounded(1)))
    ]
    base = base_of(saved, known)
    for name, bits, median in (("rounding", 1, False), ("median", 0, True), ("both", 1, True)):
        squeezing = defenses.FS(bits=bits, median=median)
        detector = squeezing.fit(base, known, key=jax.random.key(0))
        pairs.append((
            name, Guarded(model, detector), Guarded(model, squeezing.surrogate(detector)),
        ))  # fmt: skip
    return pairs


def attacked(
    model: Any, surrogate: Any, sample: Sample, eps: float, options: argparse.Namespace, advance: Any
) -> Sequence[float]:
    """Return percent of images that fool the model, and, of a guard, percent that it rejects."""
    guarded = isinstance(model, Guarded)
    runs = joint_runs(
        surrogate, eps=eps, step_size=FIRST * eps, steps=options.steps,
        restarts=options.restarts, names=("max_margin",), decay=DECAY, weights=WEIGHTS if guarded else (),
        confident=int(guarded),
    )  # fmt: skip
    made = run_cascade(
        runs, model, sample.images, sample.labels,
        key=jax.random.key(1), batch_size=options.batch, on_batch=advance,
    )  # fmt: skip
    answers = predict(model, made.x_adv, sample.labels, batch_size=options.batch)
    fooled = 100.0 * float(np.mean(1.0 - answers.holds))
    return (fooled, 100.0 * float(np.mean(answers.rejected))) if guarded else (fooled,)


@jax.jit
def margins(model: Any, images: jax.Array, label: jax.Array) -> jax.Array:
    """Return how far the largest other logit lies above the label's, one label for all images [B]."""
    return max_margin(model(images), jnp.full(len(images), label))


def flipped(model: Any, sample: Sample, eps: float, *, most: int = 128) -> float | None:
    """Return percent of images that greedy flips of rounded pixels turn into another class.

    None where an image has more than ``most`` pixels to choose from: then the search takes too long.
    """
    chosen = [np.flatnonzero(np.abs(image.ravel() - 0.5) <= eps) for image in sample.images]
    if max(map(len, chosen)) > most:
        return None
    fooled = 0
    for image, label, pixels in zip(sample.images, sample.labels, chosen, strict=True):
        now, best = np.round(image.ravel()), -np.inf
        tried = np.tile(now, (most + 1, 1))  # the image as it is, and with each flip; one compile
        while True:
            values = np.asarray(margins(model, tried.reshape(-1, *image.shape), label))[: len(pixels) + 1]
            if values.max() <= best:
                break
            best, now = values.max(), tried[values.argmax()]
            if best > 0:
                break
            tried = np.tile(now, (most + 1, 1))
            tried[1 + np.arange(len(pixels)), pixels] = 1.0 - now[pixels]
        fooled += best > 0
    return 100.0 * fooled / len(sample)


def midway(images: np.ndarray, eps: float) -> float:
    """Return the percentage of pixels that a change of ``eps`` can carry across the edge of rounding."""
    return 100.0 * float(np.mean(np.abs(images - 0.5) <= eps))


if __name__ == "__main__":
    main()

"""A fitted detector: scores, and one threshold that is set on clean images only."""

import math
from dataclasses import replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.batches import OnBatch, in_batches, silent
from deepsec_jax.data import Dataset, Split, unit_images
from deepsec_jax.defenses.base import Base, DefenseError
from deepsec_jax.jit import jit_per_class
from deepsec_jax.placement import place_rows
from deepsec_jax.protocols import Images, Key, Scalar
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import typed_key
from deepsec_jax.training.loop import split_validation

FPR = 0.04
"""The false positive rate at which the paper compares detectors."""


@runtime_checkable
class Scorer(Protocol):
    """A pytree: images [B, H, W, C] in [0, 1] -> scores float32 [B], row by row; high = suspicious."""

    def __call__(self, x: Images, /) -> jax.Array: ...


class FittedDetector(Struct):
    """A score and a threshold, returned by ``detector.fit``.

    Attributes:
        scorer: images -> scores [B], high = suspicious; a pytree, so its weights are traced.
        threshold: scores above it are flagged; infinite until :meth:`at_fpr` sets it, and then the same for
            every attack.
        spread: threshold less the median clean score, above 0.  It is the unit of a score's distance from the
            threshold in a joint attack.
    """

    scorer: Scorer
    threshold: Scalar = math.inf
    spread: Scalar = 1.0

    def score(self, x: Images) -> jax.Array:
        """Return the scores [B], float32; compiled, traceable and differentiable if the scorer is."""
        return _score(self.scorer, x)

    def flags(self, x: Images) -> jax.Array:
        """Return bool [B]: the score is above the threshold or NaN."""
        return is_flagged(self.score(x), self.threshold)

    def at_fpr(
        self, x_clean: np.ndarray | Images, fpr: float = FPR, *, batch_size: int = 100
    ) -> "FittedDetector":
        """Return the detector with a threshold that flags at most a share ``fpr`` of these images.

        Host code.  The threshold is the smallest clean score with at most a share ``fpr`` of scores above it.

        Args:
            x_clean: clean images [N, H, W, C] that neither the classifier nor the detector was trained on;
                floats in [0, 1], or uint8.
            fpr: false positive rate, in [0, 1).
            batch_size: images per call.

        Raises:
            DefenseError: too few images for this rate, a rate out of range, or a NaN score.
        """
        if not 0.0 <= fpr < 1.0:
            raise DefenseError(f"a false positive rate lies in [0, 1), got {fpr:g}")
        if len(x_clean) * fpr < 1 and fpr > 0:
            raise DefenseError(
                f"{len(x_clean)} clean images cannot show a false positive rate of {fpr:g}: "
                f"give at least {math.ceil(1 / fpr)}"
            )
        scores = np.sort(score_all(self.scorer, x_clean, batch_size=batch_size))
        if not np.isfinite(scores).all():
            wrong = int((~np.isfinite(scores)).sum())
            raise DefenseError(f"{wrong} of {len(scores)} clean images have a score that is no number")
        above = math.floor(round(fpr * len(scores), 9))  # 0.04 x 100 is 4, not 4.0000000000000001
        threshold = float(scores[len(scores) - 1 - above])
        spread = threshold - float(np.median(scores))
        smallest = 1e-6 * max(1.0, abs(threshold))
        return replace(self, threshold=threshold, spread=max(spread, smallest))


def is_flagged(scores: jax.Array, threshold: Scalar) -> jax.Array:
    """Return bool [B]: above the threshold, or NaN."""
    return ~(scores <= threshold)


@jit_per_class
def _score(scorer: Scorer, x: Images) -> jax.Array:
    return scorer(x).astype(jnp.float32)


def score_all(
    scorer: Scorer, images: np.ndarray | Images, *, batch_size: int = 100, on_batch: OnBatch = silent
) -> np.ndarray:
    """Return the scores of all images, float32 [N]; host code, one compilation for all N.

    Args:
        scorer: images -> scores.
        images: floats in [0, 1], or uint8 [N, H, W, C].
        batch_size: images per call; the last batch is padded.
        on_batch: called with the number of images of each batch.
    """
    images = np.asarray(images)

    def scored(rows: np.ndarray) -> dict[str, jax.Array]:
        batch = place_rows(scorer, jnp.asarray(unit_images(images[rows])))
        return {"scores": _score(scorer, batch)}

    return in_batches(scored, len(images), batch_size, on_batch).get("scores", np.zeros(0, np.float32))


def fitting_and_validation(base: Base, data: Dataset) -> tuple[Split, Split]:
    """Return the images for fitting a detector, and the clean images that set its threshold.

    Both are parts of the training split: the test split is only for evaluation.  The second is the validation
    part of the base's training, so neither network nor detector was fitted to it; without a recipe it is the
    last tenth.
    """
    if base.recipe is not None:
        return split_validation(data.train, base.recipe)
    rows = np.arange(len(data.train))
    first = len(rows) - max(1, len(rows) // 10)
    return data.train.take(rows[:first]), data.train.take(rows[first:])


def draw(split: Split, rows: int, key: Key) -> Split:
    """Return ``rows`` images of a split (all, if it has fewer), drawn without repetition."""
    chosen = np.asarray(jax.random.permutation(typed_key(key), len(split))[:rows])
    return split.take(np.sort(chosen))

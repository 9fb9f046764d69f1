"""A model's predictions on a set of images, and whether its loss has a gradient; host code."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks import losses
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.batches import batches, in_batches
from deepsec_jax.evaluation.judge import answers_of, confidence_of
from deepsec_jax.evaluation.sample import Sample
from deepsec_jax.explicit_meshes import on_automatic_mesh
from deepsec_jax.jit import jit_per_class
from deepsec_jax.placement import place_rows
from deepsec_jax.protocols import Classifier, Key
from deepsec_jax.randomness import example_keys, reseed


@dataclass(frozen=True)
class Predictions:
    """A model's outputs on images, averaged over draws.

    Attributes:
        correct: share of draws with the true class, float32 [N].
        holds: share of draws that are correct or rejected, float32 [N].
        fooled: share of draws with a wrong class, float32 [N].
        rejected: share of draws that are rejected, float32 [N]; NaN for a model that cannot reject.
        no_answer: share of draws without an answer (NaN or +inf), neither correct nor fooled, float32 [N].
        predicted: most frequent class, int32 [N]; K means "rejected", -1 no answer.
        confidence: probability of that class, float32 [N]; NaN for a model without confidences.
        probabilities: float32 [N, K]; NaN for a model without confidences.
        margins: largest other logit minus that of the true class, or of "rejected" if larger, float32 [N];
            above 0 is wrong.
        classes: class in each draw, int32 [N, D]; K means "rejected", -1 no answer.
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
    classes: np.ndarray

    def success(self, clean: "Predictions", labels: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the share of draws in which the goal is reached here and not on clean images, float32 [N].

        As :func:`deepsec_jax.evaluation.judge` counts it, for predictions under the same draws.

        Args:
            clean: predictions on the clean images.
            labels: true classes [N].
            targets: target classes [N]; -1 for any class except the label.
        """
        count = self.probabilities.shape[1]

        def reached(found: np.ndarray) -> np.ndarray:
            wrong = (found != labels[:, None]) & (found >= 0) & (found < count)
            return np.asarray(np.where(targets[:, None] < 0, wrong, found == targets[:, None]))

        both = reached(self.classes) & ~reached(clean.classes)
        return np.asarray(both.mean(axis=1), np.float32)


@on_automatic_mesh
def predict(
    model: Classifier, images: np.ndarray, labels: np.ndarray, *, batch_size: int, key: Key | None = None
) -> Predictions:
    """Classify all images; draws of a randomised model come from ``key``, by default the judge's."""

    def asked(rows: np.ndarray) -> dict[str, Any]:
        true = as_labels(labels[rows])
        found = answers_of(model, jnp.asarray(images[rows]), true, key=key, first=int(rows[0]))
        margins = losses.max_margin(open_logits(model, found.logits, true, targeted=False), true)
        return {
            "correct": found.correct,
            "holds": jnp.maximum(1.0 - found.success - found.no_answer, 0.0),
            "fooled": found.success, "rejected": found.rejected, "no_answer": found.no_answer,
            "predicted": found.predicted, "confidence": confidence_of(found),
            "probabilities": found.probabilities, "margins": margins, "classes": found.classes.T,
        }  # fmt: skip

    return Predictions(**in_batches(asked, len(images), batch_size))


def has_gradient(model: Classifier, sample: Sample, *, key: Key, batch_size: int) -> bool:
    """Tell whether the loss of any image has a nonzero gradient; host code.

    A model of votes or of codes has none; PGD would then return its random starts.  For most models the first
    batch suffices.
    """
    model = reseed(model, example_keys(key, batch_size))
    for rows in batches(len(sample), batch_size):
        batch = jnp.asarray(sample.images[rows]), jnp.asarray(sample.labels[rows])
        found = _gradients(model, *place_rows(model, batch))
        if bool(jnp.any(found)):
            return True
    return False


@jit_per_class
def _gradients(model: Classifier, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Return bool [B]: the image's gradient has a finite nonzero entry."""

    def loss(x: jax.Array) -> tuple[jax.Array, None]:
        return losses.logit_gap(open_logits(model, model(x), labels, targeted=False), labels), None

    gradient = value_and_gradient(loss, x)[2]
    return jnp.any(jnp.isfinite(gradient) & (gradient != 0), axis=(1, 2, 3))

"""DD: defensive distillation."""

import os
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import Base, Changes, recipe_changes, retrain
from deepsec_jax.field_checks import positive
from deepsec_jax.models.wrappers import Scaled
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class DD(Struct):
    """Train a teacher and then a student at temperature T; deploy the student at temperature 1.

        teacher: CE(z(x) / T, y)        student: CE(z(x) / T, softmax(z_teacher(x) / T))

    Deployed logits are about T times too large, so softmax and cross-entropy saturate and gradients are
    masked. The surrogate divides by T.  Teacher and student hold out the same images, so no validation image
    is ever used in training.

    Attributes:
        temperature: T.
        changes: what differs from the base's recipe, static.

    References:
        Papernot et al., "Distillation as a Defense to Adversarial Perturbations against Deep Neural
        Networks", S&P 2016, arXiv:1511.04508.
    """

    temperature: Scalar = field(50.0, check=positive)
    changes: Changes = static((), check=recipe_changes)

    card: ClassVar[Card] = Card(
        name="DD",
        title="Defensive distillation",
        reference="Papernot et al., S&P 2016, arXiv:1511.04508",
        goal="complete",
        kind="gradient masking",
    )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the student; the teacher has a folder next to its own."""
        beside = None if folder is None else Path(folder).with_name(Path(folder).name + "-teacher")
        # One key for both: the same validation images and the same initial weights.
        teacher = retrain(
            self, base, data, AtTemperature(self.temperature), key=key, folder=beside, part="teacher"
        )
        distilled = Distilled(teacher.model, self.temperature)
        return retrain(self, base, data, distilled, key=key, folder=folder).model

    def surrogate(self, classifier: Classifier) -> Classifier:
        """Return the student at its training temperature, with logits of usual size."""
        return Scaled(classifier, 1.0 / self.temperature)


class AtTemperature(Struct):
    """The teacher's loss: cross-entropy of logits over T; T is traced."""

    temperature: Scalar

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean over the batch."""
        logits = model(x, rngs=nnx.Rngs(dropout=key)) / self.temperature
        loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss


class Distilled(Struct):
    """The student's loss: cross-entropy at T against the teacher's softmax at T."""

    teacher: Classifier
    temperature: Scalar

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean over the batch; the labels are the teacher's."""
        del labels
        soft = soft_labels(self.teacher, x, self.temperature)
        logits = model(x, rngs=nnx.Rngs(dropout=key)) / self.temperature
        loss: jax.Array = optax.softmax_cross_entropy(logits, soft).mean()
        return loss


def soft_labels(teacher: Classifier, x: Images, temperature: Scalar) -> jax.Array:
    """Return softmax(z / T) of the teacher, float32 [B, K], as constants."""
    logits = jax.lax.stop_gradient(teacher(x)).astype(jnp.float32)
    return jax.nn.softmax(logits / temperature, axis=-1)

"""Shared types: array aliases and the protocols of models, attacks, defenses and detectors.

Images are float arrays in [0, 1], height x width x channels.  Preprocessing (mean, scale, resize) is part of
the model.  A model is a pytree, so its weights are traced and never constants.
"""

from typing import Any, Protocol, runtime_checkable

import jax

Images = jax.Array  # float [B, H, W, C] in [0, 1]
Labels = jax.Array  # int [B], 0 .. K-1
Logits = jax.Array  # float [B, K], raw scores, no softmax
Key = jax.Array  # one typed PRNG key, shape []
Keys = jax.Array  # typed PRNG keys, one per example, shape [B]
Scalar = float | jax.Array  # a traced hyperparameter


@runtime_checkable
class Classifier(Protocol):
    """A pytree that maps images [B, H, W, C] in [0, 1] to raw logits [B, K], row by row."""

    def __call__(self, x: Images, /) -> Logits: ...


@runtime_checkable
class Attack(Protocol):
    """A frozen pytree of hyperparameters; its call makes adversarial examples."""

    def __call__(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Return adversarial images: shape and dtype of ``x``, inside [0, 1], row i from row i only.

        Args:
            model: a pytree callable in evaluation mode.
            x: float images [B, H, W, C] in [0, 1].  Without ``jax_enable_x64`` float64 images become float32,
                and so is the result; :func:`deepsec_jax.attacks.run_in_batches` returns float64.
            labels: classes [B], of any integer dtype; the targets of a targeted attack.
            key: one key, or one per image; needed by random attacks and models.

        Raises:
            ValueError: shapes or dtypes that do not match, a model in training mode, a missing key; NumPy
                images outside [0, 1], NumPy labels below 0.  Arrays on a device are not checked, since that
                would wait for the device: an image outside [0, 1] by more than 0.001 is returned as NaN, and
                an invalid label is not detected.  ``run_in_batches`` checks all of this.
        """
        ...

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the target class of each row, or None if any wrong class counts."""
        ...


@runtime_checkable
class Defense(Protocol):
    """A frozen pytree of hyperparameters; its ``fit`` makes a classifier that is harder to attack."""

    def fit(self, base: Any, data: Any, *, key: Key, folder: Any = None) -> Classifier:
        """Return the defended classifier: a pytree callable like any model.

        Args:
            base: :class:`deepsec_jax.defenses.Base`: the undefended model, its network and recipe.
            data: :class:`deepsec_jax.data.Dataset`; its test split is only used for the accuracy.
            key: of all random numbers.
            folder: model folder to write, in which an interrupted training resumes; or None.
        """
        ...

    def surrogate(self, classifier: Classifier) -> Classifier:
        """Return the model that an adaptive attacker differentiates instead of the defended classifier."""
        ...


@runtime_checkable
class Detector(Protocol):
    """A frozen pytree of hyperparameters; its ``fit`` makes a score of how suspicious an image is."""

    def fit(self, base: Any, data: Any, *, key: Key, folder: Any = None) -> Any:
        """Return a :class:`deepsec_jax.defenses.FittedDetector` with a threshold set on clean images.

        Args:
            base: :class:`deepsec_jax.defenses.Base`: the model to guard.
            data: :class:`deepsec_jax.data.Dataset`; its test split is only used for the accuracy.
            key: of all random numbers.
            folder: model folder to write, in which an interrupted training resumes; or None.
        """
        ...

    def surrogate(self, detector: Any) -> Any:
        """Return the fitted detector that a joint attack differentiates instead."""
        ...

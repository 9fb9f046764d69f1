"""The words every room of the house uses: array aliases and the protocols of model and attack.

Images are float arrays in [0, 1], height x width x channels; whatever a model wants done to them
(mean, scale, resize) belongs to the model.  A model is a pytree, so weights are traced, never baked in.
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
    """A frozen pytree of hyperparameters whose call makes adversarial examples."""

    def __call__(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        """Return adversarial images: shape and dtype of ``x``, inside [0, 1], row i from row i only.

        Args:
            model: a pytree callable in evaluation mode.
            x: float images [B, H, W, C] in [0, 1].  A jax that works in float32 makes float32 of float64
                ones and gives float32 back; :func:`deepsec_jax.attacks.run_in_batches` gives float64.
            labels: classes [B], of any integers; the targets of a targeted attack.
            key: one key, or one per image; needed by random attacks and models.

        Raises:
            ValueError: shapes or dtypes that do not fit, a model in training mode, no key where one is
                needed; NumPy images outside [0, 1], NumPy labels below 0.  Arrays on a device are not looked
                at, since that would wait for it: an image outside [0, 1] by more than 0.001 comes back as
                NaN, and nobody sees a label that is no class.  ``run_in_batches`` sees all of it.
        """
        ...

    def targets(
        self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Labels | None:
        """Return the class each row is driven to, or None when any wrong class counts."""
        ...


@runtime_checkable
class Defense(Protocol):
    """A frozen pytree of hyperparameters that makes a classifier which is harder to attack."""

    def fit(self, base: Any, data: Any, *, key: Key, folder: Any = None) -> Classifier:
        """Return the defended classifier: a pytree callable like any model.

        Args:
            base: :class:`deepsec_jax.defenses.Base`: the undefended model, its network and recipe.
            data: :class:`deepsec_jax.data.Dataset`; its test split is not looked at but for the accuracy.
            key: decides all that is drawn.
            folder: model folder to write, where an interrupted training goes on; None keeps nothing.
        """
        ...

    def surrogate(self, classifier: Classifier) -> Classifier:
        """Return what an adaptive attacker differentiates instead of the defended classifier."""
        ...


@runtime_checkable
class Detector(Protocol):
    """A frozen pytree of hyperparameters that makes a score of how suspicious an image is."""

    def fit(self, base: Any, data: Any, *, key: Key, folder: Any = None) -> Any:
        """Return a :class:`deepsec_jax.defenses.FittedDetector`, its threshold set on clean images.

        Args:
            base: :class:`deepsec_jax.defenses.Base`: the model to guard.
            data: :class:`deepsec_jax.data.Dataset`; its test split is not looked at but for the accuracy.
            key: decides all that is drawn.
            folder: model folder to write, where an interrupted training goes on; None keeps nothing.
        """
        ...

    def surrogate(self, detector: Any) -> Any:
        """Return the fitted detector that a joint attack differentiates instead."""
        ...

"""LID: a detector based on the local intrinsic dimension of an image's activations in every layer."""

import os
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.answers import succeeded
from deepsec_jax.attacks import FGSM
from deepsec_jax.batches import batches
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset, Split, unit_images
from deepsec_jax.defenses.base import Base, DefenseError, check_keepable, itself, keep_network
from deepsec_jax.defenses.detector import FPR, FittedDetector, draw, fitting_and_validation
from deepsec_jax.defenses.detector_files import has_arrays, keep_arrays, kept_arrays
from deepsec_jax.defenses.intrinsic_dimension import Reference, intrinsic_dimension, reference_of
from deepsec_jax.field_checks import count, integer, share
from deepsec_jax.jit import jit_per_class
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.progress import progress
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import example_keys, typed_key
from deepsec_jax.training import Saved, load_network, predictions

AT_ONCE = 100
"""Images per compiled call of the fit."""


class LID(Struct):
    """Flag an image by the local intrinsic dimensions of its activations.

        score = bias + sum over layers l of weight_l (LID_l(x) - mean_l) / scale_l

    LID_l is the local intrinsic dimension of layer l's activations, from the distances to those of one stored
    batch of clean training images.  So an image's score depends only on that image.  The weights come from a
    logistic regression, and the score is its log-odds, which do not saturate.

    The regression separates FGSM's images from clean and noisy ones.  All are made from training images that
    the network classifies correctly and FGSM misclassifies.  Each noisy copy has the L2 distance of the
    adversarial image.  The surrogate is the detector itself: its gradient is exact, and a change of the
    nearest neighbours is a kink like a ReLU's.

    Attributes:
        eps: of FGSM, in units of the [0, 1] pixel range.
        k: nearest neighbours, static.
        minibatch: number of stored clean images, static.
        examples: number of training images for the regression, static; 0 takes all.
        fpr: false positive rate of the threshold.
        images: maximum number of held-out clean images that set it, static.

    References:
        Ma et al., "Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality", ICLR 2018,
        arXiv:1801.02613.
    """

    eps: Scalar = 0.3
    k: int = static(20, check=integer(2))
    minibatch: int = static(100, check=count)
    examples: int = static(0, check=integer(0))
    fpr: float = field(FPR, check=share)
    images: int = static(5000, check=count)

    keeps_network: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        name="LID",
        title="Local intrinsic dimension of activations",
        reference="Ma et al., ICLR 2018, arXiv:1801.02613",
        goal="detection",
        kind="density",
    )
    surrogate = itself

    def __post_init__(self) -> None:
        if self.minibatch <= self.k:
            raise DefenseError(
                f"LID.minibatch must be more than the {self.k} neighbours, got {self.minibatch}"
            )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> FittedDetector:
        """Return the score with its threshold; see :class:`deepsec_jax.protocols.Detector`.

        Raises:
            DefenseError: the network has no ``activations``, or there are too few images.
        """
        check_activations(base.trained)
        if folder is not None:
            check_keepable(base, folder)
            if Path(folder).exists():
                saved = load_network(folder)
                _check_ours(saved, folder)
                if has_arrays(folder):  # otherwise it was interrupted between the network and the arrays
                    return self.restore(saved, folder)
        drawn_key, noise_key, clean_key = jax.random.split(typed_key(key), 3)
        learned, held_out = fitting_and_validation(base, data)
        few = self.minibatch + self.examples if self.examples else len(learned)
        order = np.asarray(jax.random.permutation(drawn_key, len(learned)))[:few]
        right = _classified(base.trained, learned.take(order))
        reference, rest = unit_images(right.images[: self.minibatch]), right.images[self.minibatch :]
        if len(reference) < self.minibatch:
            raise DefenseError(
                f"the network classifies {len(right)} of {len(order)} training images correctly, and "
                f"LID.minibatch wants {self.minibatch}: give more images, or a network that is trained"
            )
        scorer = unfitted(base.trained, reference, self.k)
        labels = right.labels[self.minibatch :]
        features, classes = labelled_dimensions(scorer, FGSM(eps=self.eps), rest, labels, key=noise_key)
        scorer = regression(scorer, features, classes)
        clean = draw(held_out, self.images, clean_key)
        fitted = FittedDetector(scorer).at_fpr(clean.images, self.fpr)
        if folder is not None:
            figures = {
                "detector": "LID", "threshold": float(fitted.threshold), "clean_images": len(clean),
                "moved_by_fgsm": int(classes.sum()), "of_images": len(rest),
            }  # fmt: skip
            keep_network(base, data, folder, answers=Guarded(base.trained, fitted), figures=figures)
            keep_arrays(
                folder, reference=reference, mean=scorer.mean, scale=scorer.scale, weights=scorer.weights,
                bias=scorer.bias, threshold=fitted.threshold, spread=fitted.spread,
            )  # fmt: skip
        return fitted

    def restore(self, saved: Saved, folder: str | os.PathLike[str]) -> FittedDetector:
        """Return the detector of the network of a folder, with its stored arrays.

        Raises:
            DefenseError: the folder holds another model, or the arrays are missing or damaged.
        """
        _check_ours(saved, folder)
        kept = kept_arrays(folder, "reference", "mean", "scale", "weights", "bias", "threshold", "spread")
        scorer = unfitted(saved.model, kept["reference"], self.k)
        if kept["weights"].shape != scorer.weights.shape:
            raise DefenseError(
                f"{folder} holds {len(kept['weights'])} weights and a network of {len(scorer.weights)} "
                "layers: fit the detector again"
            )
        fields = {name: jnp.asarray(kept[name]) for name in ("mean", "scale", "weights", "bias")}
        return FittedDetector(scorer.replace(**fields), float(kept["threshold"]), float(kept["spread"]))


class LayerScore(Struct):
    """The log-odds that an image is adversarial, from its layers' local intrinsic dimensions.

    Attributes:
        model: has ``activations(x) -> tuple of [B, d]``, one per layer.
        images: the stored clean images, float32 [R, H, W, C].
        reference: their activations, one per layer, made by :func:`unfitted`.
        mean: of each layer's dimension [L], over the regression's data.
        scale: its standard deviation [L].
        weights: the regression's [L].
        bias: the regression's.
        k: nearest neighbours, static.
    """

    derived = ("reference",)

    model: Any
    images: Images
    reference: tuple[Reference, ...]
    mean: jax.Array
    scale: jax.Array
    weights: jax.Array
    bias: jax.Array
    k: int = static(20)

    def __call__(self, x: Images) -> jax.Array:
        """Return the scores float32 [B]."""
        standard = (self.dimensions(x) - self.mean[None, :]) / self.scale[None, :]
        return jnp.sum(standard * self.weights[None, :], axis=1) + self.bias

    def dimensions(self, x: Images) -> jax.Array:
        """Return each layer's local intrinsic dimension, float32 [B, L]."""
        layers = zip(self.model.activations(x), self.reference, strict=True)
        return jnp.stack([intrinsic_dimension(rows, of, self.k) for rows, of in layers], axis=1)


def check_activations(model: Any) -> None:
    """Raise DefenseError for a model without ``activations``."""
    if not callable(getattr(model, "activations", None)):
        raise DefenseError(
            f"LID needs activations(x) -> tuple of [B, d], and {type(model).__name__} has none: give it that "
            "method (all networks of deepsec_jax.models have it), or guard one of those"
        )


def unfitted(model: Any, reference: np.ndarray, k: int) -> LayerScore:
    """Return a scorer around reference images, float32 [R, H, W, C], whose weights are all 0."""
    images = jnp.asarray(reference)
    layers = _references(model, images)
    nothing = jnp.zeros(len(layers), jnp.float32)
    return LayerScore(model, images, layers, nothing, nothing + 1.0, nothing, jnp.zeros((), jnp.float32), k)


def regression(scorer: LayerScore, features: np.ndarray, classes: np.ndarray) -> LayerScore:
    """Return the scorer with a logistic regression on standardised features.

    Host code, by scikit-learn with its defaults: L2 penalty, C = 1.

    Args:
        scorer: its mean, scale, weights and bias are replaced.
        features: dimensions [N, L].
        classes: bool [N], whether adversarial.
    """
    from sklearn.linear_model import LogisticRegression  # here: every command imports the defenses
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    fitted = LogisticRegression(max_iter=1000).fit(scaler.transform(features.astype(np.float64)), classes)
    learned = (scaler.mean_, scaler.scale_, fitted.coef_[0], fitted.intercept_[0])
    mean, scale, weights, bias = (jnp.asarray(each, jnp.float32) for each in learned)
    return scorer.replace(mean=mean, scale=scale, weights=weights, bias=bias)


def labelled_dimensions(
    scorer: LayerScore, attack: FGSM, images: np.ndarray, labels: np.ndarray, *, key: Key
) -> tuple[np.ndarray, np.ndarray]:
    """Return dimensions float32 [3 M, L] and classes bool [3 M]: clean, noisy, adversarial.

    M is the number of images that the attack misclassifies.  Host code, one compilation.

    Args:
        scorer: gives the dimensions.
        attack: makes the adversarial images.
        images: correctly classified images, [N, H, W, C].
        labels: their classes [N].
        key: of the noise.

    Raises:
        DefenseError: the attack misclassifies fewer than two.
    """
    parts: list[np.ndarray] = []
    with progress("LID", len(images)) as advance:
        for rows in batches(len(images), AT_ONCE):
            first = int(rows[0])
            batch = jnp.asarray(unit_images(images[rows])), jnp.asarray(labels[rows], jnp.int32)
            three, moved = _three(scorer, attack, *batch, example_keys(key, AT_ONCE, first=first))
            real = len(images) - first
            parts.append(np.asarray(three)[:, :real][:, np.asarray(moved)[:real]])
            advance(min(AT_ONCE, real))
    clean, noisy, adversarial = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0, 0))
    if len(clean) < 2:
        raise DefenseError(
            f"FGSM at eps {float(attack.eps):g} moves {len(clean)} of {len(images)} training images into "
            "another class: LID has nothing to learn from, give a larger eps or more images"
        )
    return np.concatenate([clean, noisy, adversarial]), np.repeat([False, False, True], len(clean))


@jax.jit
def as_far(x: Images, x_adv: Images, keys: Keys) -> Images:
    """Return noisy images as far from ``x`` in L2 as ``x_adv`` is, one key per row.

        clip(x + s n, 0, 1),  n ~ N(0, 1)

    with each row's s found by bisection, which compensates for the clipping.
    """
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)

    def norm(change: Images) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(change), axis=(1, 2, 3)))

    def copies(scale: jax.Array) -> Images:
        return jnp.clip(x + scale[:, None, None, None] * noise, min=0.0, max=1.0)

    def halve(_: int, between: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = between
        middle = 0.5 * (low + high)
        short = norm(copies(middle) - x) < wanted
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    wanted = norm(x_adv - x)
    widest = jnp.full_like(wanted, 10.0)  # nearly all values are 0 or 1 there
    return copies(lax.fori_loop(0, 30, halve, (jnp.zeros_like(wanted), widest))[0])


@jit_per_class
def _three(
    scorer: LayerScore, attack: FGSM, x: Images, labels: Labels, keys: Keys
) -> tuple[jax.Array, jax.Array]:
    """Return dimensions [3, B, L] of clean, noisy and adversarial images, and which were misclassified."""
    x_adv = attack(scorer.model, x, labels)
    sets = (x, as_far(x, x_adv, keys), x_adv)
    moved = succeeded(scorer.model(x_adv), labels, targeted=False)
    return jnp.stack([scorer.dimensions(images) for images in sets]), moved


@jit_per_class
def _references(model: Any, images: Images) -> tuple[Reference, ...]:
    return tuple(map(reference_of, model.activations(images)))


def _classified(model: Classifier, split: Split) -> Split:
    """Return the images of a split that the model classifies correctly."""
    predicted = predictions(model, split, batch_size=AT_ONCE)
    return split.take(np.flatnonzero(predicted == split.labels))


def _check_ours(saved: Saved, folder: str | os.PathLike[str]) -> None:
    if saved.figures.get("detector") != "LID":
        raise DefenseError(f"{folder} holds a model without LID: choose another folder or remove it")

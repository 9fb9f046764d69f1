"""MagNet: autoencoders trained on clean images, as detectors and as a reformer."""

import os
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deepsec_jax.batches import in_batches
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset, Split, unit_images
from deepsec_jax.defenses.base import (
    Base,
    Changes,
    DefenseError,
    check_confident,
    check_keepable,
    keep_network,
    recipe_changes,
    retrain,
)
from deepsec_jax.defenses.detector import FPR, FittedDetector, draw, fitting_and_validation
from deepsec_jax.defenses.detector_files import has_arrays, keep_arrays, kept_arrays
from deepsec_jax.defenses.divergence import divergence_excess
from deepsec_jax.defenses.part_folders import move_in, part_folder
from deepsec_jax.defenses.quantiles import Quantiles, fit_quantiles
from deepsec_jax.field_checks import count, each, one_of, positive, share
from deepsec_jax.models.autoencoder import KINDS, Autoencoder
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import typed_key
from deepsec_jax.training import Recipe, Saved, load_network

ERROR = "test_error"
"""Name, in the figures of an autoencoder, of its mean squared error on the test part."""


class MagNet(Struct):
    """Flag an image that an autoencoder changes more than clean ones, in pixels or in the model's outputs.

        errors:        mean |x - A(x)|^p, one for every autoencoder A
        divergences:   JS(softmax z(x) / T, softmax z(A(x)) / T), one for every T, by the first autoencoder
        score = the largest of them, each as its quantile among clean images

    There is one threshold on the score; in the original each detector has its own.  The first autoencoder is
    also the reformer: :func:`reformed`.  The score is differentiable and does not saturate.  But quantiles
    are nearly constant between the threshold and the largest clean score, so the surrogate uses the single
    detectors' own units.

    Attributes:
        autoencoders: kind of each, ``pooled`` or ``flat``, static.
        powers: p of each one's error, static.
        temperatures: T of each divergence, static.
        filters: width of the autoencoders, static.
        noise: standard deviation of the Gaussian noise on their training images.
        reforms: whether accepted images pass the reformer before the network, as the authors deploy it,
            static.
        fpr: false positive rate of the threshold.
        images: maximum number of held-out clean images, half for the quantiles and half for the threshold,
            static.
        changes: what differs from the autoencoders' recipe (:func:`recipe_of`), static.

    References:
        Meng, Chen, "MagNet: a Two-Pronged Defense against Adversarial Examples", CCS 2017,
        arXiv:1705.09064.
    """

    autoencoders: tuple[str, ...] = static(("pooled", "flat"), check=each(one_of(*KINDS), least=1))
    powers: tuple[int, ...] = static((2, 1), check=each(count, least=1))
    temperatures: tuple[float, ...] = static((), check=each(positive))
    filters: int = static(3, check=count)
    noise: Scalar = 0.1
    reforms: bool = static(False)
    fpr: float = field(FPR, check=share)
    images: int = static(5000, check=count)
    changes: Changes = static((), check=recipe_changes)

    keeps_network: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        name="MagNet",
        title="Reconstruction by autoencoders",
        reference="Meng and Chen, CCS 2017, arXiv:1705.09064",
        goal="detection",
        kind="autoencoder",
    )

    def __post_init__(self) -> None:
        if len(self.autoencoders) != len(self.powers):
            raise DefenseError(
                f"MagNet takes one power for every autoencoder, got {len(self.powers)} for "
                f"{len(self.autoencoders)}"
            )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> FittedDetector:
        """Return the score with its threshold; see :class:`deepsec_jax.protocols.Detector`.

        The autoencoders train in ``<folder>-autoencoder-1`` and so on, which become
        ``<folder>/autoencoder-1`` at the end.  They train on the images of the base's training part.  Half of
        the held-out images sets the quantiles, the other half the threshold. The halves must differ, since
        none of the first half's images is beyond the largest quantile.

        Raises:
            DefenseError: images of a size that the autoencoders do not accept, too few images, a folder of
                another model, or temperatures with a base that returns votes.
        """
        if self.temperatures:
            check_confident(self, base)
        if "pooled" in self.autoencoders and (data.image_shape[0] % 2 or data.image_shape[1] % 2):
            raise DefenseError(
                f"MagNet's pooled autoencoder needs even sides, and {data.name} has images of "
                f"{data.image_shape[0]} x {data.image_shape[1]}: give flat ones"
            )
        if folder is not None:
            check_keepable(base, folder)
            if has_arrays(folder):
                move_in(folder, *map(part_of, range(len(self.autoencoders))))
                return self.restore(load_network(folder), folder)
        fitting, held_out = fitting_and_validation(base, data)
        clean_key, *keys = jax.random.split(typed_key(key), 1 + len(self.autoencoders))
        clean = draw(held_out, self.images, clean_key)
        learned = replace(data, train=fitting)
        saved = [
            retrain(
                self, Base(partial(self.build, kind), recipe_of(data), base.trained), learned,
                Denoising(self.noise), key=keys[number], part=part_of(number),
                folder=None if folder is None else part_folder(folder, part_of(number)), score=minus_error,
                tested={ERROR: mean_error},
            )
            for number, kind in enumerate(self.autoencoders)
        ]  # fmt: skip
        parts = Parts(base.trained, tuple(each.model for each in saved), self.powers, self.temperatures)
        values = all_parts(parts, clean.images[::2])
        scorer = LargestQuantile(parts, tuple(map(fit_quantiles, values.T)))
        fitted = FittedDetector(scorer).at_fpr(clean.images[1::2], self.fpr)
        if folder is not None:
            errors = [each.figures[ERROR] for each in saved]
            figures: dict[str, Any] = {
                "threshold": float(fitted.threshold), "clean_images": len(clean),
                "threshold_images": len(clean.images[1::2]), ERROR: errors,
            }  # fmt: skip
            whole = Guarded(self.behind(fitted, base.trained), fitted)
            keep_network(base, data, folder, answers=whole, figures=figures)
            keep_arrays(folder, threshold=fitted.threshold, spread=fitted.spread, clean_parts=values)
            move_in(folder, *map(part_of, range(len(self.autoencoders))))
        return fitted

    def build(self, kind: str, rngs: nnx.Rngs, channels: int) -> Autoencoder:
        """Return an untrained autoencoder."""
        return Autoencoder(channels, kind=kind, filters=self.filters, rngs=rngs)

    def restore(self, saved: Saved, folder: str | os.PathLike[str]) -> FittedDetector:
        """Return the detector of the network of a folder, with its autoencoders.

        Raises:
            DefenseError: the arrays of the folder are missing, damaged or of other sizes.
            CheckpointError: an autoencoder is missing, damaged, or of other sizes.
        """
        kept = kept_arrays(folder, "threshold", "spread", "clean_parts")
        values = kept["clean_parts"]
        expected = len(self.autoencoders) + len(self.temperatures)
        if values.ndim != 2 or values.shape[1] != expected:
            raise DefenseError(
                f"{folder} holds clean scores of shape {values.shape}, not of {expected} parts: fit the "
                "detector again"
            )
        models = tuple(
            load_network(part_folder(folder, part_of(number)), build=partial(self.build, kind)).model
            for number, kind in enumerate(self.autoencoders)
        )
        parts = Parts(saved.model, models, self.powers, self.temperatures)
        scorer = LargestQuantile(parts, tuple(map(fit_quantiles, values.T)))
        return FittedDetector(scorer, float(kept["threshold"]), float(kept["spread"]))

    def behind(self, detector: FittedDetector, network: Classifier) -> Classifier:
        """Return the classifier of accepted images: the network, or the network after the reformer."""
        return reformed(detector) if self.reforms else network

    def surrogate(self, detector: FittedDetector) -> FittedDetector:
        """Return a detector that flags the same images by each part's excess over its own threshold.

        A quantile is above the threshold exactly if the score is above the score at that quantile.
        """
        of: Any = detector.scorer
        at, middle = (
            jnp.asarray([each.score_at(float(level)) for each in of.quantiles], jnp.float32)
            for level in (detector.threshold, 0.5)
        )
        units = jnp.maximum(jnp.abs(at - middle), 1e-6 * jnp.maximum(jnp.abs(at), 1e-6))
        return FittedDetector(LargestExcess(of.parts, at, units), 0.0, 1.0)


class Parts(Struct):
    """The single detectors' scores: reconstruction errors, then divergences.

    A divergence JS is replaced by -log(1 - JS / ln 2), which has the same quantiles and does not saturate.

    Attributes:
        model: images -> logits [B, K].
        autoencoders: in evaluation mode; the first is the reformer.
        powers: p of each one's error, static.
        temperatures: T of each divergence, static.
    """

    model: Classifier
    autoencoders: tuple[Any, ...]
    powers: tuple[int, ...] = static((2, 1))
    temperatures: tuple[float, ...] = static(())

    def __call__(self, x: Images) -> jax.Array:
        """Return float32 [B, P], high = suspicious."""
        made = [autoencoder(x) for autoencoder in self.autoencoders]
        scores = [
            jnp.mean(jnp.abs(x - each) ** power, axis=(1, 2, 3))
            for each, power in zip(made, self.powers, strict=True)
        ]
        if self.temperatures:
            logits = self.model(jnp.concatenate([x, made[0]])).astype(jnp.float32)
            for temperature in self.temperatures:
                outputs = jax.nn.log_softmax(logits / temperature, axis=-1)
                scores.append(divergence_excess(outputs[: len(x)], outputs[len(x) :]))
        return jnp.stack(scores, axis=-1).astype(jnp.float32)


class LargestQuantile(Struct):
    """The largest quantile, among clean images, of the single detectors' scores.

    Attributes:
        parts: images -> scores [B, P].
        quantiles: one map per part, P in all.
    """

    parts: Parts
    quantiles: tuple[Quantiles, ...]

    def __call__(self, x: Images) -> jax.Array:
        """Return the scores [B]; about 0 to 1 on clean images, larger on others."""
        scores = self.parts(x)
        each = [quantile(scores[:, number]) for number, quantile in enumerate(self.quantiles)]
        return jnp.max(jnp.stack(each), axis=0)


class LargestExcess(Struct):
    """The largest excess of a single detector's score over its own threshold, in its own units.

    Attributes:
        parts: images -> scores [B, P].
        thresholds: of each, [P].
        units: above 0, [P]: threshold less median.
    """

    parts: Parts
    thresholds: jax.Array
    units: jax.Array

    def __call__(self, x: Images) -> jax.Array:
        """Return the scores [B], above 0 if one part is above its threshold."""
        return jnp.max((self.parts(x) - self.thresholds[None]) / self.units[None], axis=-1)


class Reformed(Struct):
    """A classifier of an autoencoder's reconstruction: MagNet's reformer, a complete defense.

    Attributes:
        autoencoder: in evaluation mode.
        model: images -> logits [B, K].
    """

    autoencoder: Any
    model: Classifier

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K] of the reconstructions."""
        return self.model(self.autoencoder(x))


def reformed(detector: FittedDetector) -> Reformed:
    """Return the classifier that a fitted MagNet guards, with its reformer in front.

    ``Guarded(reformed(detector), detector)`` is the complete MagNet: accepted images are reformed and
    classified.

    Raises:
        DefenseError: not a MagNet detector.
    """
    scorer: Any = detector.scorer
    if not isinstance(scorer, LargestQuantile):
        raise DefenseError(f"only MagNet has a reformer, and this is a {type(scorer).__name__}")
    return Reformed(scorer.parts.autoencoders[0], scorer.parts.model)


class Denoising(Struct):
    """The loss of an autoencoder: mean squared error of reconstructed noisy images; noise is traced."""

    noise: Scalar

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean over the batch; labels are ignored."""
        del labels
        noisy = jnp.clip(x + self.noise * jax.random.normal(key, x.shape, x.dtype), min=0.0, max=1.0)
        return jnp.mean((model(noisy) - x) ** 2)


def recipe_of(data: Dataset) -> Recipe:
    """Return the autoencoders' recipe for a data set, before the preset's changes."""
    return Recipe(
        name=data.name, data=data.name, model="autoencoder", epochs=100, batch_size=256, optimizer="adam",
        learning_rate=1e-3, schedule="constant", source="Meng and Chen's code: Adam, batches of 256",
    )  # fmt: skip


def part_of(number: int) -> str:
    """Return the name of an autoencoder's folder."""
    return f"autoencoder-{number + 1}"


@jax.jit
def _error(model: Autoencoder, x: Images) -> jax.Array:
    return jnp.mean((model(x) - x) ** 2, axis=(1, 2, 3))


@jax.jit
def _parts(parts: Parts, x: Images) -> jax.Array:
    return parts(x)


def mean_error(model: Any, split: Split) -> float:
    """Return the mean squared error of an autoencoder on a split, without noise."""
    return float(_over(partial(_error, model), split.images).mean(dtype=np.float64))


def minus_error(model: Any, split: Split) -> float:
    """Return minus the mean squared error on a split: a score, higher is better."""
    return -mean_error(model, split)


def all_parts(parts: Parts, images: np.ndarray) -> np.ndarray:
    """Return the single detectors' scores of all images, float32 [N, P]; host code."""
    return _over(partial(_parts, parts), images)


def _over(compute: Any, images: np.ndarray, *, batch_size: int = 250) -> np.ndarray:
    return in_batches(lambda rows: {"values": compute(unit_images(images[rows]))}, len(images), batch_size)[
        "values"
    ]

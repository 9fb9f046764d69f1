"""PD: PixelDefend; a generative model purifies images before they are classified."""

import os
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from deepsec_jax.batches import batches
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset, Split, unit_images
from deepsec_jax.defenses.base import (
    Base,
    Changes,
    DefenseError,
    check_keepable,
    keep_network,
    recipe_changes,
    retrain,
)
from deepsec_jax.defenses.part_folders import move_in, part_folder
from deepsec_jax.field_checks import count, integer, proper_share
from deepsec_jax.models.pixelcnn import PixelCNN, bits_per_dim
from deepsec_jax.models.pixelcnn_scan import purify
from deepsec_jax.models.wrappers import StraightThrough
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Logits, Scalar
from deepsec_jax.pytree import Struct, static
from deepsec_jax.training import Recipe, Saved, load_network

PART = "pixelcnn"
"""Name of the PixelCNN's folder in that of the defended model."""

BITS = "test_bits_per_dim"
"""Name, in the figures of both folders, of the PixelCNN's bits per dimension on the test part."""


class PD(Struct):
    """Classify the image with the undefended network after purification by a PixelCNN.

        x_i <- argmax over z with |z - x_i| <= eps of p(z | x_0 .. x_{i-1}),   i = row, column, channel

    The PixelCNN is trained on clean images.  The network is unchanged and may be any classifier.  The
    purification has no gradient; the surrogate uses the identity's.

    Attributes:
        eps: radius of the purification, eps_defend, in units of the [0, 1] pixel range.
        filters: width of the PixelCNN, static.
        blocks: gated blocks in each half of each of its streams (nr_resnet), static.
        mixtures: components of a pixel's distribution, static.
        levels: levels of a channel, static.
        dropout: rate in the PixelCNN's training, static.
        changes: what differs from the PixelCNN's recipe (:func:`recipe_of`), static.

    References:
        Song, Kim, Nowozin, Ermon, Kushman, "PixelDefend: Leveraging Generative Models to Understand and
        Defend against Adversarial Examples", ICLR 2018, arXiv:1710.10766.
    """

    eps: Scalar = 0.3
    filters: int = static(160, check=count)
    blocks: int = static(5, check=integer(0))
    mixtures: int = static(10, check=count)
    levels: int = static(256, check=integer(2))
    dropout: float = static(0.0, check=proper_share)
    changes: Changes = static((), check=recipe_changes)

    keeps_network: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        name="PD",
        title="PixelDefend, purification by a PixelCNN",
        reference="Song et al., ICLR 2018, arXiv:1710.10766",
        goal="complete",
        kind="purification",
    )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the base's classifier of purified images; see :class:`deepsec_jax.protocols.Defense`.

        The PixelCNN trains in ``<folder>-pixelcnn``, which becomes ``<folder>/pixelcnn`` at the end.  The
        accuracy in the folder is that on the first 1,000 purified test images.
        """
        if folder is not None:
            check_keepable(base, folder)
            if Path(folder).exists():
                move_in(folder, PART)
                return self.restore(load_network(folder), Path(folder))
        density = Base(self.build, recipe_of(data), base.trained)
        saved = retrain(
            self, density, data, bits_objective, key=key, score=minus_bits, tested={BITS: mean_bits},
            part=PART, folder=None if folder is None else part_folder(folder, PART),
        )  # fmt: skip
        classifier = Purified(saved.model, base.trained, self.eps)
        figures = {BITS: saved.figures[BITS]}
        keep_network(base, data, folder, answers=classifier, figures=figures, tested=1000, batch_size=100)
        if folder is not None:
            move_in(folder, PART)
        return classifier

    def build(self, rngs: nnx.Rngs, channels: int) -> PixelCNN:
        """Return the untrained PixelCNN."""
        return PixelCNN(
            channels, filters=self.filters, blocks=self.blocks, mixtures=self.mixtures, levels=self.levels,
            dropout=self.dropout, rngs=rngs,
        )  # fmt: skip

    def restore(self, saved: Saved, folder: Path) -> Classifier:
        """Return the classifier around the network of a folder, with its PixelCNN.

        Raises:
            DefenseError: the folder holds another model.
            CheckpointError: the PixelCNN is missing, damaged, or of other sizes.
        """
        if BITS not in saved.figures:
            raise DefenseError(
                f"{folder} holds a model without a PixelCNN: choose another folder or remove it"
            )
        density = load_network(part_folder(folder, PART), build=self.build).model
        return Purified(density, saved.model, self.eps)

    def surrogate(self, classifier: Classifier) -> Classifier:
        """Return the same classifier with the identity's gradient for the purification."""
        return PurifiedStraightThrough(classifier)  # type: ignore[arg-type]  # what fit returned


class Purification(Struct):
    """Images -> purified images, a pytree; see :func:`deepsec_jax.models.pixelcnn_scan.purify`."""

    pixelcnn: Any
    eps: Scalar

    def __call__(self, x: Images) -> Images:
        """Return images [B, H, W, C] on the PixelCNN's levels."""
        purified: Images = purify(self.pixelcnn, x, self.eps)
        return purified


class Purified(Struct):
    """A classifier of purified images; deterministic, and without a gradient.

    Attributes:
        pixelcnn: in evaluation mode.
        network: images -> logits.
        eps: radius of the purification.
    """

    pixelcnn: Any
    network: Classifier
    eps: Scalar

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K]."""
        # Piecewise constant, so its derivative is 0. Stated here to avoid a backward pass through the scan.
        return self.network(self.seen(lax.stop_gradient(x)))

    def seen(self, x: Images) -> Images:
        """Return the purified images."""
        purified: Images = purify(self.pixelcnn, x, self.eps)
        return purified


class PurifiedStraightThrough(Struct):
    """A purified classifier with the identity's gradient for the purification (BPDA)."""

    classifier: Purified

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K] of the purified images."""
        of = self.classifier
        return of.network(StraightThrough(Purification(of.pixelcnn, of.eps))(x))


def recipe_of(data: Dataset) -> Recipe:
    """Return the PixelCNN's recipe for a data set, before the preset's changes."""
    return Recipe(
        name=data.name, data=data.name, model="pixelcnn", epochs=10, batch_size=32, optimizer="adam",
        learning_rate=1e-3, schedule="one_cycle", source="ours: Adam at PixelCNN++'s rate",
    )  # fmt: skip


def bits_objective(model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
    """Return the mean bits per dimension of a batch; labels are ignored."""
    del labels
    return jnp.mean(bits_per_dim(model, x, rngs=nnx.Rngs(dropout=key)))


@jax.jit
def _bits(model: PixelCNN, x: Images) -> jax.Array:
    return bits_per_dim(model, x)


def mean_bits(model: Any, split: Split, *, batch_size: int = 100) -> float:
    """Return the mean bits per dimension of a split."""
    total = 0.0
    for rows in batches(len(split), batch_size):
        bits = np.asarray(_bits(model, unit_images(split.images[rows])), np.float64)
        total += float(bits[: len(split) - int(rows[0])].sum())
    return total / len(split)


def minus_bits(model: Any, split: Split) -> float:
    """Return minus the mean bits per dimension of a split: a score, higher is better."""
    return -mean_bits(model, split)

"""RC: region-based classification by votes of the undefended network on points around the image."""

import os
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.answers import named
from deepsec_jax.attacks.gradient import forward
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset, Split
from deepsec_jax.defenses.base import Base, DefenseError, check_keepable, keep_network
from deepsec_jax.defenses.transformed import DRAWS, Transformed
from deepsec_jax.field_checks import count
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.model_traits import logits_shape
from deepsec_jax.models.wrappers import EOT
from deepsec_jax.progress import progress
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Logits, Scalar
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import first_keys, one_per_row, typed_key
from deepsec_jax.training import Saved, accuracy, load_network
from deepsec_jax.transforms import point_in_cube

AT_ONCE = 1000
"""Total number of points of all images per call of the network."""


class InCube(Struct):
    """A transform: one uniform point of the cube around each image, clipped to the box."""

    radius: Scalar

    def __call__(self, x: Images, keys: Keys) -> Images:
        """Return the points; one key per row."""
        points: Images = point_in_cube(x, keys, self.radius)
        return points


class RegionVotes(Struct):
    """Shares of votes: the share of random points around the image that the network assigns to each class.

    Votes are counts, so the gradient is zero everywhere, and they are no confidences.  Point j of row i
    depends only on the row's key and on j.  At most ``AT_ONCE`` points are evaluated together.

    Attributes:
        model: the network that votes.
        radius: half the cube's side, in units of the [0, 1] pixel range.
        keys: one per row [B], or a single one [1], as for ``Transformed``.
        points: number of points, static.
    """

    model: Classifier
    radius: Scalar
    keys: Keys
    points: int = static(1000)

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)
    confidences: ClassVar[bool] = False
    judged_draws: ClassVar[int] = 1
    """The judge takes one vote, not several: a vote is already an average over draws."""

    def __call__(self, x: Images) -> Logits:
        """Return shares [B, K] that sum to 1; the largest is the majority, in a tie the lower class.

        Points without an answer of the network (NaN) have no vote; without any vote the shares are NaN.
        """
        rows, classes = x.shape[0], logits_shape(self.model, x)[-1]
        keys = one_per_row(self.keys, rows)
        each = max(1, min(self.points, AT_ONCE // max(1, rows)))

        def one(number: jax.Array) -> Images:
            of_row = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
            points: Images = point_in_cube(x, of_row, self.radius)
            return points

        def count(votes: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
            numbers = first + jnp.arange(each)
            points = jax.vmap(one)(numbers).reshape(each * rows, *x.shape[1:])
            # A point without an answer has no vote.
            cast = named(forward(self.model, points)).reshape(each, rows)
            counted = jnp.where(
                (numbers < self.points)[:, None, None], jax.nn.one_hot(cast, classes, dtype=jnp.float32), 0.0
            )
            return votes + counted.sum(axis=0), None

        nobody = varying_alike(jnp.zeros((rows, classes), jnp.float32), x)
        votes = lax.scan(count, nobody, jnp.arange(0, self.points, each))[0]
        return votes / jnp.sum(votes, axis=-1, keepdims=True)

    def seen(self, x: Images) -> Images:
        """Return one of the voting points for each image."""
        points: Images = point_in_cube(x, one_per_row(self.keys, x.shape[0]), self.radius)
        return points


class RC(Struct):
    """Predict the most frequent class over points in a hypercube around the image; nothing is trained.

    The surrogate is the mean logits over points of the cube.

    Attributes:
        radius: half the cube's side, in units of the [0, 1] pixel range.
        points: number of voting points, static.
        search: whether :func:`search_radius` finds the radius, static.
        images: number of training images of the search, static.

    References:
        Cao, Gong, "Mitigating Evasion Attacks to Deep Neural Networks via Region-based Classification",
        ACSAC 2017, arXiv:1709.05583.
    """

    radius: Scalar = 0.3
    points: int = static(1000, check=count)
    search: bool = static(False)
    images: int = static(1000, check=count)

    keeps_network: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        name="RC",
        title="Region-based classification",
        reference="Cao and Gong, ACSAC 2017, arXiv:1709.05583",
        goal="complete",
        kind="region vote",
    )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the votes of the base's network; see :class:`deepsec_jax.protocols.Defense`.

        The accuracy in a folder is that on the first 100 test images, since each takes ``points`` calls of
        the network.
        """
        if folder is not None and Path(folder).exists():
            return self.restore(load_network(folder), folder)
        if folder is not None:
            check_keepable(base, folder)
        figures: dict[str, Any] = {"radius": float(self.radius)}
        if self.search:
            rows_key, vote_key = jax.random.split(typed_key(key))
            rows = jax.random.permutation(rows_key, len(data.train))[: self.images]
            few = data.train.take(np.sort(np.asarray(rows)))
            figures = search_radius(base.trained, few, points=self.points, key=vote_key)
        classifier = RegionVotes(base.trained, figures["radius"], first_keys(), self.points)
        keep_network(base, data, folder, answers=classifier, figures=figures, tested=100, batch_size=20)
        return classifier

    def restore(self, saved: Saved, folder: Any) -> Classifier:
        """Return the votes of the network of a folder, at the fitted radius.

        Raises:
            DefenseError: the folder holds another model.
        """
        if "radius" not in saved.figures:
            raise DefenseError(f"{folder} holds a model without a radius: choose another folder or remove it")
        return RegionVotes(saved.model, saved.figures["radius"], first_keys(), self.points)

    def surrogate(self, classifier: Any) -> Classifier:
        """Return the mean logits over random points of the cube, which are differentiable."""
        return EOT(Transformed(classifier.model, InCube(classifier.radius), classifier.keys), DRAWS)


def search_radius(
    model: Classifier, split: Split, *, points: int, key: Key, step: float = 0.01, most: float = 0.01
) -> dict[str, Any]:
    """Return the largest radius at which voting loses no more accuracy than allowed.

    Increases the radius step by step and stops at the first that loses too much, or at 1.  Host code.

    Args:
        model: the undefended network.
        split: images with labels.
        points: votes per image.
        key: of the points.
        step: increment of the radius.
        most: largest allowed loss of accuracy, as a share.

    Returns:
        ``radius``, ``undefended`` accuracy, and ``search``: the accuracy at step, 2 step, ...
    """
    undefended, found = accuracy(model, split), 0.0
    history: list[float] = []
    keys = jax.random.split(typed_key(key), 1)
    with progress("search radius", round(1 / step)) as advance:
        for number in range(1, round(1 / step) + 1):
            radius = round(number * step, 6)
            votes = RegionVotes(model, radius, keys, points)
            history.append(accuracy(votes, split, batch_size=min(100, len(split))))
            advance(1, f"radius {radius:.2f}: {history[-1]:.4f}, undefended {undefended:.4f}")
            if undefended - history[-1] > most:
                break
            found = radius
    return {"radius": found, "undefended": undefended, "search": history}

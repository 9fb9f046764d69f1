"""A network with a random transform in front of it, for EIT and RT."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax

from deepsec_jax.data import Split
from deepsec_jax.defenses.adversarial import mean_loss
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Logits
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import first_keys, one_per_row
from deepsec_jax.training import accuracy

DRAWS = 30
"""Number of draws of an adaptive attacker's average, the minimum for EOT."""

RowTransform = Callable[[Images, Keys], Images]
"""``transform(x, keys)``: images [B, H, W, C] and one key per row [B] to images; a pytree."""


class Transformed(Struct):
    """A classifier of transformed images, with a random transform for every row.

    ``reseed`` replaces the keys, as in attacks and in the judge; before that one key serves all rows.

    Attributes:
        model: the network.
        transform: applied to the images first.
        keys: one key per row [B], or a single one [1]; then row i of any batch uses its i-th fold.
    """

    model: Classifier
    transform: RowTransform
    keys: Keys

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x: Images) -> Logits:
        """Return the network's logits [B, K] on the transformed images."""
        return self.model(self.seen(x))

    def seen(self, x: Images) -> Images:
        """Return the transformed images."""
        return self.transform(x, one_per_row(self.keys, x.shape[0]))


class LossThrough(Struct):
    """The cross-entropy of transformed images, drawn in every step; a transform's leaves are traced."""

    transform: RowTransform

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean over the batch."""
        transform_key, loss_key = jax.random.split(key)
        x = self.transform(x, jax.random.split(transform_key, x.shape[0]))
        return mean_loss(model, x, labels, loss_key)


class AccuracyThrough:
    """A score: accuracy on transformed images, one draw per image; host code."""

    def __init__(self, transform: RowTransform):
        """Score networks with this transform."""
        self.transform = transform

    def __call__(self, model: Any, split: Split) -> float:
        """Return the share of correctly classified images, in [0, 1]."""
        return accuracy(Transformed(model, self.transform, first_keys()), split)

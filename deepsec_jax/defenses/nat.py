"""NAT: naive adversarial training on clean images and one-step least-likely-class examples."""

import os
from typing import Any, ClassVar

import jax

from deepsec_jax.attacks import LLC
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.adversarial import PerImageEps, mixed_loss
from deepsec_jax.defenses.base import Base, Changes, itself, recipe_changes, retrain
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import Struct, static
from deepsec_jax.training import frozen


class NAT(Struct):
    """Train on clean images and, with a smaller weight, on LLC examples of the current network.

        loss = (CE(x) + weight CE(LLC(x, eps_i))) / (1 + weight),   eps_i = min(|N(0, sigma)| / 255, largest)

    Attributes:
        sigma: standard deviation of eps, in grey levels of 0 .. 255.
        largest: largest eps, in units of the [0, 1] pixel range.
        weight: of the adversarial loss against the clean one.
        changes: what differs from the base's recipe, static.

    References:
        Kurakin, Goodfellow, Bengio, "Adversarial Machine Learning at Scale", ICLR 2017, arXiv:1611.01236.
    """

    sigma: Scalar = 50.0
    largest: Scalar = 0.3
    weight: Scalar = 0.3
    changes: Changes = static((), check=recipe_changes)

    card: ClassVar[Card] = Card(
        name="NAT",
        title="Naive adversarial training on one-step examples",
        reference="Kurakin et al., ICLR 2017, arXiv:1611.01236",
        goal="complete",
        kind="adversarial training",
    )
    surrogate = itself

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the retrained network; see :class:`deepsec_jax.protocols.Defense`."""
        objective = _Objective(PerImageEps(self.sigma, self.largest), self.weight)
        return retrain(self, base, data, objective, key=key, folder=folder).model


class _Objective(Struct):
    eps: PerImageEps
    weight: Scalar

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        eps_key, loss_key = jax.random.split(key)
        x_adv = LLC(eps=self.eps.draw(eps_key, x.shape[0]))(frozen(model), x, labels)
        return mixed_loss(model, x, x_adv, labels, loss_key, 1.0, self.weight)

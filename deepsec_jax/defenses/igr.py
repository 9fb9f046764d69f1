"""IGR: input gradient regularisation."""

import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import Base, Changes, itself, retrain
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import static


class IGR(struct.PyTreeNode):
    """Train with a penalty on how much the loss changes with the image: double backpropagation.

        loss = mean_i CE(x_i) + lam mean_i ||d CE(x_i) / d x_i||_2^2

    The original penalises the gradient of the batch's mean loss, so that its lambda counts 1 / batch size
    of what it says: 316 / 256 = 1.234 and 10 / 256 = 0.039 here, whatever the batch.

    Attributes:
        lam: weight of the mean squared gradient norm.
        changes: what differs from the base's recipe, static.

    References:
        Ross, Doshi-Velez, "Improving the Adversarial Robustness and Interpretability of Deep Neural
        Networks by Regularizing their Input Gradients", AAAI 2018, arXiv:1711.09404.
    """

    lam: Scalar = 316 / 256
    changes: Changes = static(())

    card: ClassVar[Card] = Card(
        name="IGR",
        title="Input gradient regularisation",
        reference="Ross and Doshi-Velez, AAAI 2018, arXiv:1711.09404",
        goal="complete",
        kind="gradient masking",
    )
    surrogate = itself

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the retrained network; see :class:`deepsec_jax.protocols.Defense`."""
        return retrain(self, base, data, Penalised(self.lam), key=key, folder=folder).model


class Penalised(struct.PyTreeNode):
    """IGR's loss of a batch; the weight is traced."""

    lam: Scalar

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean cross-entropy and the penalty together."""

        def total(x: Images) -> tuple[jax.Array, jax.Array]:
            logits = model(x, rngs=nnx.Rngs(dropout=key))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.sum(), losses

        # Row i of the gradient of the sum is the gradient of example i's loss, batch statistics apart.
        gradient, losses = jax.grad(total, has_aux=True)(x)
        return losses.mean() + self.lam * jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))

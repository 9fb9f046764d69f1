"""IGR: input gradient regularisation."""

import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset
from deepsec_jax.defenses.base import Base, Changes, itself, recipe_changes, retrain
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class IGR(Struct):
    """Train with a penalty on the loss's gradient with respect to the image (double backpropagation).

        loss = mean_i CE(x_i) + lam mean_i ||d CE(x_i) / d x_i||_2^2

    The original penalises the gradient of the batch's mean loss, which divides its lambda by the batch size:
    316 / 256 = 1.234 and 10 / 256 = 0.039 here, for any batch size.

    Attributes:
        lam: weight of the mean squared gradient norm.
        changes: what differs from the base's recipe, static.

    References:
        Ross, Doshi-Velez, "Improving the Adversarial Robustness and Interpretability of Deep Neural
        Networks by Regularizing their Input Gradients", AAAI 2018, arXiv:1711.09404.
    """

    lam: Scalar = 316 / 256
    changes: Changes = static((), check=recipe_changes)

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


class Penalised(Struct):
    """IGR's loss of a batch; the weight is traced.

    Let g be the gradient with respect to the image, held fixed.  The loss's derivative along g is ||g||^2,
    and its gradient with respect to the weights is half the penalty's.  This takes one additional
    forward-mode pass. Differentiating g would take a second backward pass through a backward pass: the same
    gradient in four times the time.
    """

    lam: Scalar

    def __call__(self, model: nnx.Module, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean cross-entropy and the penalty together."""
        graph, state = nnx.split(model)

        def losses(x: Images) -> tuple[jax.Array, nnx.State[Any, Any]]:
            called: Any = nnx.merge(graph, state, copy=True)  # updates the batch statistics
            logits = called(x, rngs=nnx.Rngs(dropout=key))
            values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return values, nnx.state(called, nnx.BatchStat)

        # Row i of the gradient of the sum is the gradient of example i's loss, apart from batch statistics.
        gradient = lax.stop_gradient(jax.grad(lambda x: losses(x)[0].sum())(x))
        values, along, statistics = jax.jvp(losses, (x,), (gradient,), has_aux=True)
        nnx.update(model, statistics)
        squared_norms = 2.0 * along - lax.stop_gradient(along)  # the value of one term, the gradient of two
        return jnp.mean(values) + self.lam * jnp.mean(squared_norms)

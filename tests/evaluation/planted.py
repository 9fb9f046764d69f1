"""Defenses that seem robust and are not: a small network on digits behind six ways to mislead attacks.

Strengths are numbers of a pytree where possible, so that all strengths share compiled programs.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepsec_jax.defenses.detector import FittedDetector
from deepsec_jax.models import Scaled
from deepsec_jax.models.guarded import Guarded
from deepsec_jax.pytree import Struct, static
from deepsec_jax.transforms.jpeg import jpeg

HIDDEN = 64


class MLP(Struct):
    """Two layers on flat images.

    Attributes:
        first: weights [D, HIDDEN] and bias.
        last: weights [HIDDEN, K] and bias.
        keep: number of hidden units that the activation keeps, static; 0 is a ReLU.
    """

    first: tuple[Any, Any]
    last: tuple[Any, Any]
    keep: int = static(0)

    def __call__(self, x):
        return self.top(self.hidden(x))

    def hidden(self, x):
        flat = x.reshape(x.shape[0], -1)
        before = flat @ self.first[0] + self.first[1][None, :]
        if not self.keep:
            return jax.nn.relu(before)
        least = jax.lax.stop_gradient(jax.lax.top_k(before, self.keep)[0][:, -1:])
        return jnp.where(before >= least, before, 0.0)

    def top(self, hidden):
        return hidden @ self.last[0] + self.last[1][None, :]


class RandomNeurons(Struct):
    """Hidden units times 1 + strength x normal noise, fresh in every call."""

    base: MLP
    keys: Any
    strength: Any = 0.5

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x):
        hidden = self.base.hidden(x)
        noise = jax.vmap(lambda key: jax.random.normal(key, hidden.shape[1:]))(self.keys)
        return self.base.top(hidden * (1.0 + self.strength * noise))


class Levels(Struct):
    """A model behind so many grey levels: nothing flows back."""

    base: Any
    levels: Any = 16.0

    def __call__(self, x):
        return self.base(jnp.round(x * (self.levels - 1)) / (self.levels - 1))


class JPEG(Struct):
    """A model behind JPEG."""

    base: Any
    quality: int = static(50)

    def __call__(self, x):
        return self.base(jpeg(x, self.quality))


class Squeezed(Struct):
    """A detector's score: how much the probabilities change behind few levels."""

    base: Any
    levels: Any = 4.0

    def __call__(self, x):
        squeezed = jnp.round(x * (self.levels - 1)) / (self.levels - 1)
        each = [jax.nn.softmax(self.base(images), axis=-1) for images in (x, squeezed)]
        return jnp.sum(jnp.abs(each[0] - each[1]), axis=-1)


def fitted(images, labels, *, keep=0, seed=0, steps=300):
    """Return an MLP trained on all images at once."""
    size, classes = int(np.prod(images.shape[1:])), int(labels.max()) + 1
    keys = jax.random.split(jax.random.key(seed), 2)
    shapes = ((size, HIDDEN), (HIDDEN, classes))
    first, last = (
        (jax.random.normal(key, shape) * (2.0 / shape[0]) ** 0.5, jnp.zeros(shape[1]))
        for key, shape in zip(keys, shapes, strict=True)
    )
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes kinds of numbers
        return _trained(MLP(first, last, keep), jnp.asarray(images), jnp.asarray(labels), steps=steps)


@partial(jax.jit, static_argnames=("steps",))
def _trained(model, images, labels, *, steps):
    adam = optax.adam(1e-2)

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    def step(carry, _):
        model, state = carry
        updates, state = adam.update(jax.grad(loss)(model), state)
        return (optax.apply_updates(model, updates), state), None

    return jax.lax.scan(step, (model, adam.init(model)), None, length=steps)[0][0]


def tuned(base, images, x_adv, share):
    """Return the base with a detector whose threshold flags a share of one attack's own images."""
    scores = np.asarray(Squeezed(base)(x_adv))
    threshold = float(np.quantile(scores, 1 - share))
    spread = max(1e-3, abs(threshold - float(np.median(Squeezed(base)(images)))))
    return Guarded(base, FittedDetector(Squeezed(base), threshold, spread))


STRENGTHS = {
    "temperature": (1e1, 1e3, 1e6),
    "levels": (32.0, 16.0, 6.0),
    "neurons": (0.3, 0.6, 1.0),
    "winners": (32, 16, 6),
    "jpeg": (90, 75, 50),
    "tuned": (0.5, 0.8, 0.95),
}
"""Kind -> its three strengths."""


def defended(kind, strength, base, dataset, x_adv=None):
    """Return a planted defense of the base.

    Args:
        kind: of STRENGTHS.
        strength: one of them.
        base: the MLP.
        dataset: for the network with winners, which is trained with them.
        x_adv: images of an attack on the base, for the detector that is tuned to it.
    """
    images = dataset.train.images
    if kind == "temperature":
        return Scaled(base, strength)
    if kind == "levels":
        return Levels(base, strength)
    if kind == "neurons":
        return RandomNeurons(base, jax.random.split(jax.random.key(3), 2), strength)
    if kind == "winners":
        return fitted(images, dataset.train.labels, keep=strength)
    if kind == "jpeg":
        return JPEG(base, strength)
    assert kind == "tuned"
    return tuned(base, jnp.asarray(dataset.test.images[: len(x_adv)]), x_adv, strength)

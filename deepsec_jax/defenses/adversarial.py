"""Shared parts of adversarial training: losses of a batch, and accuracy under attack as a score."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from deepsec_jax.attacks import run_in_batches
from deepsec_jax.data import Split, unit_images
from deepsec_jax.protocols import Attack, Images, Key, Labels
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import root_key
from deepsec_jax.training import accuracy


def mean_loss(model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
    """Return the mean cross-entropy of a model in training mode."""
    logits = model(x, rngs=nnx.Rngs(dropout=key))
    loss: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss


def mixed_loss(
    model: Any, x: Images, x_adv: Images, labels: Labels, key: Key, natural: Any, adversarial: Any
) -> jax.Array:
    """Return the weighted mean of the losses on clean and on adversarial images.

    Two forward passes, so that clean and adversarial images have separate batch statistics.
    """
    clean_key, adversarial_key = jax.random.split(key)
    clean = mean_loss(model, x, labels, clean_key)
    attacked = mean_loss(model, x_adv, labels, adversarial_key)
    loss: jax.Array = (natural * clean + adversarial * attacked) / (natural + adversarial)
    return loss


class RobustAccuracy:
    """A score: the accuracy on the first validation images under an attack.

    Host code, called once per epoch.
    """

    def __init__(self, attack: Attack, *, images: int = 1000, batch_size: int = 100, seed: int = 0):
        """Attack the first ``images`` of the validation part, keys from ``seed``."""
        self.attack, self.images, self.batch_size, self.seed = attack, images, batch_size, seed

    def __call__(self, model: Any, split: Split) -> float:
        """Return the accuracy under attack, in [0, 1]."""
        few = split.take(np.arange(min(self.images, len(split))))
        x_adv = run_in_batches(
            self.attack, model, unit_images(few.images), few.labels,
            key=root_key(self.seed), batch_size=min(self.batch_size, len(few)),
        )  # fmt: skip
        return accuracy(model, Split(x_adv, few.labels))


class PerImageEps(Struct):
    """The distribution of NAT's eps: |N(0, sigma)| / 255 per image, at most ``largest``.

    Attributes:
        sigma: standard deviation in grey levels of 0 .. 255.
        largest: upper end, in units of the [0, 1] pixel range.
    """

    sigma: float | jax.Array
    largest: float | jax.Array

    def draw(self, key: Key, rows: int) -> jax.Array:
        """Return one eps per image, float32 [rows]."""
        normal = jax.random.normal(key, (rows,), jnp.float32)
        return jnp.minimum(jnp.abs(self.sigma * normal) / 255.0, self.largest)


def warmed(eps: Any, warmup: Any, done: jax.Array) -> jax.Array:
    """Return eps, increased linearly from 0 over the first ``warmup`` share of the training; 0 for none."""
    share = jnp.where(warmup > 0, done / jnp.maximum(warmup, 1e-6), 1.0)
    increased: jax.Array = eps * jnp.minimum(share, 1.0)
    return increased

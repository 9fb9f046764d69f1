"""TE: thermometer encoding, with adversarial training in the space of codes."""

import os
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.catalog import Card
from deepsec_jax.data import Dataset, Split
from deepsec_jax.defenses.adversarial import mean_loss, mixed_loss
from deepsec_jax.defenses.base import Base, Changes, recipe_changes, retrain
from deepsec_jax.defenses.thermometer import (
    SmoothThermometer,
    Thermometer,
    bits_of,
    encode,
    flattened,
    level_of,
    rungs,
)
from deepsec_jax.field_checks import count, integer
from deepsec_jax.protocols import Classifier, Images, Key, Labels, Scalar
from deepsec_jax.pytree import Struct, static
from deepsec_jax.randomness import example_keys
from deepsec_jax.training import Saved, accuracy, frozen


class TE(Struct):
    """Encode each value's level as a thermometer code, and train the network on attacks on the codes.

        loss = (natural CE(encode(x)) + CE(LS-PGA(x))) / (natural + 1)

    The encoding has no gradient, so attacks on the image fail; the surrogate has one.

    Attributes:
        levels: levels of a channel; each is a channel of the network's input, static.
        adversarial: False trains on clean codes only, which gives no robustness, static.
        eps: largest distance of an attacked level from the value, in units of the [0, 1] pixel range.
        steps: steps of LS-PGA, static.
        step_size: xi.
        anneal: factor of LS-PGA's inverse temperature per step.
        sign: step along the sign of the gradient, as DEEPSEC's code, static.
        natural: weight of the clean loss relative to the adversarial one.
        changes: what differs from the base's recipe, static.

    References:
        Buckman, Roy, Raffel, Goodfellow, "Thermometer Encoding: One Hot Way To Resist Adversarial Examples",
        ICLR 2018.
    """

    levels: int = static(16, check=integer(2))
    adversarial: bool = static(True)
    eps: Scalar = 0.3
    steps: int = static(40, check=count)
    step_size: Scalar = 1.0
    anneal: Scalar = 1.2
    sign: bool = static(False)
    natural: Scalar = 1.0
    changes: Changes = static((), check=recipe_changes)

    differentiable: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        name="TE",
        title="Thermometer encoding",
        reference="Buckman et al., ICLR 2018",
        goal="complete",
        kind="gradient masking",
    )

    def fit(
        self, base: Base, data: Dataset, *, key: Key, folder: str | os.PathLike[str] | None = None
    ) -> Classifier:
        """Return the retrained network with the encoding; see :class:`deepsec_jax.protocols.Defense`."""
        on_images = OnImages(self.levels)
        saved = retrain(
            self, base, data, self.objective(), key=key, folder=folder,
            score=on_images, tested={"test_accuracy": on_images},
            in_channels=self.levels * data.image_shape[2],
        )  # fmt: skip
        return Thermometer(saved.model, self.levels)

    def objective(self) -> Any:
        """Return the loss of a batch."""
        if not self.adversarial:
            return Encoded(self.levels)
        attack = LSPGA(
            eps=self.eps, step_size=self.step_size, anneal=self.anneal,
            levels=self.levels, steps=self.steps, sign=self.sign,
        )  # fmt: skip
        return OnCodes(attack, self.natural)

    def restore(self, saved: Saved, folder: Path) -> Classifier:
        """Return the classifier around the network of a folder."""
        del folder
        return Thermometer(saved.model, self.levels)

    def surrogate(self, classifier: Classifier) -> Classifier:
        """Return the same network, with ramps as the encoding's gradient."""
        return SmoothThermometer(classifier.network, self.levels)  # type: ignore[attr-defined]  # what fit returned


class LSPGA(Struct):
    """Logit-space projected gradient ascent: the worst code of each value within eps.

        p_i = softmax(u_i / T_i) over the levels within eps,   u_{i+1} = u_i + xi grad loss(cumulated p_i)

    from u_0 ~ N(0, 1) and T_0 = 1, with T_{i+1} = T_i / anneal; the result is the level of largest u.  The
    step is the gradient itself, as in the authors' code.  With xi = 0.01 and its sign (DEEPSEC) no u moves
    further than 0.01 steps from its start, so most codes are random.  The loss is the logit gap:
    cross-entropy without its saturation.

    Attributes:
        eps: a level is admissible if it contains a value within eps of the pixel's.
        step_size: xi.
        anneal: factor of 1 / T per step.
        levels: static.
        steps: static.
        sign: step along the sign of the gradient, static.

    References:
        Buckman et al., ICLR 2018, algorithm 3; the authors' code in
        github.com/anishathalye/obfuscated-gradients (thermometer/).
    """

    eps: Scalar = 0.3
    step_size: Scalar = 1.0
    anneal: Scalar = 1.2
    levels: int = static(16)
    steps: int = static(40)
    sign: bool = static(False)

    def __call__(self, network: Classifier, x: Images, labels: Labels, key: Key) -> Images:
        """Return adversarial codes [B, H, W, C levels]; row i from row i and its key.

        Args:
            network: a network of codes, in evaluation mode.
            x: clean images [B, H, W, C].
            labels: true classes [B].
            key: one key, or one per row.
        """
        reachable = within_reach(x, self.eps, self.levels)

        def masked(u: jax.Array) -> jax.Array:
            return jnp.where(reachable, u, -jnp.inf)

        def loss(u: jax.Array, inverse_temperature: jax.Array) -> tuple[jax.Array, None]:
            p = jax.nn.softmax(inverse_temperature * masked(u), axis=-1)
            bits = lax.cumsum(p, axis=p.ndim - 1, reverse=True)
            return logit_gap(network(flattened(bits)), labels), None

        def step(number: jax.Array, u: jax.Array) -> jax.Array:
            inverse_temperature = self.anneal ** number.astype(jnp.float32)
            _, _, gradient = value_and_gradient(lambda u: loss(u, inverse_temperature), u)
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            return u + self.step_size * (jnp.sign(gradient) if self.sign else gradient)

        keys = example_keys(key, x.shape[0])
        start = jax.vmap(lambda key: jax.random.normal(key, reachable.shape[1:], jnp.float32))(keys)
        found = lax.fori_loop(0, self.steps, step, start)
        return flattened(bits_of(jnp.argmax(masked(found), axis=-1), self.levels))


def within_reach(x: Images, eps: Scalar, levels: int) -> jax.Array:
    """Return which levels contain a value within eps of the pixel's, bool [B, H, W, C, levels]."""
    low, high = level_of(x - eps, levels)[..., None], level_of(x + eps, levels)[..., None]
    every = rungs(x.ndim, levels)
    return (every >= low) & (every <= high)


class Encoded(Struct):
    """The loss on clean codes."""

    levels: int = static(16)

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the mean over the batch."""
        return mean_loss(model, encode(x, self.levels), labels, key)


class OnCodes(Struct):
    """The loss on clean codes and on LS-PGA's."""

    attack: LSPGA
    natural: Scalar

    def __call__(self, model: Any, x: Images, labels: Labels, key: Key) -> jax.Array:
        """Return the weighted mean over the batch."""
        attack_key, loss_key = jax.random.split(key)
        codes = self.attack(frozen(model), x, labels, attack_key)
        clean = encode(x, self.attack.levels)
        return mixed_loss(model, clean, codes, labels, loss_key, self.natural, 1.0)


class OnImages:
    """A score: the accuracy of a network of codes on images."""

    def __init__(self, levels: int):
        """Encode images into this many levels."""
        self.levels = levels

    def __call__(self, model: Any, split: Split) -> float:
        """Return the accuracy, in [0, 1]."""
        return accuracy(Thermometer(model, self.levels), split)

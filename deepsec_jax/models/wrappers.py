"""Wrappers of models: randomised functions, and surrogates for adaptive attackers.

Each is a callable pytree, so every attack runs on it unchanged.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.field_checks import Check
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Classifier, Images, Keys, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static
from deepsec_jax.randomness import first_keys, one_per_row, typed_key, with_row_keys


class Randomised(Struct):
    """A randomised model made from a function with a keys argument: ``model(x, keys) -> logits``.

        Randomised(Partial(apply, weights))(x) = apply(weights, x, keys)

    ``reseed`` replaces the keys, as in attacks and in the judge; before that one key serves all rows.

    Attributes:
        model: a callable pytree from images [B, H, W, C] and keys [B] to logits [B, K]; row i depends only on
            image i and key i.
        keys: one key per row [B], or a single one [1]; then row i of any batch uses its i-th fold.
    """

    model: Callable[[Images, Keys], Logits]
    keys: Keys = field(default_factory=first_keys)

    row_keys: ClassVar[tuple[str, ...]] = ("keys",)

    def __call__(self, x: Images) -> Logits:
        """Return the logits [B, K] under these keys."""
        return self.model(x, one_per_row(self.keys, x.shape[0]))


class Scaled(Struct):
    """Another model's logits times a factor; removes the temperature of distillation.

    Attributes:
        model: the model.
        factor: multiplies its logits; traced.
    """

    model: Classifier
    factor: Scalar = 1.0

    def __call__(self, x: Images) -> Logits:
        """Return factor x logits [B, K]."""
        return self.factor * self.model(x)


def _of_channels(least: float) -> Check:
    """Return a check for a number, or one per channel, in units of [0, 1]."""

    def check(value: Any) -> Any:
        if not isinstance(value, int | float | list | tuple | np.ndarray):
            return value  # an array on a device, or what jax puts in its place
        numbers = np.asarray(value, np.float32)
        if numbers.ndim > 1 or not np.all((numbers >= least) & (numbers <= 1.0)):
            raise ValueError(
                f"must be a number or [C] from {least:g} to 1, got {value!r}: "
                "divide values for 0 .. 255 by 255"
            )
        return numbers if isinstance(value, list | tuple) else value

    return check


class Normalised(Struct):
    """A network that was trained on normalised images, as a model of images in [0, 1].

        Normalised(network, mean, std)(x) = network((x - mean) / std)

    Images outside [0, 1] would make every eps mean something else.  For a network of images in [-1, 1] take
    mean 0.5 and std 0.5.

    Attributes:
        model: the network.
        mean: of all channels, or one per channel [C], in units of [0, 1].
        std: likewise, above 0.
    """

    model: Classifier
    mean: Any = field(0.5, check=_of_channels(0.0))
    std: Any = field(0.5, check=_of_channels(1e-6))

    def __call__(self, x: Images) -> Logits:
        """Return the network's logits [B, K]."""
        return self.model(self._normalised(x))

    @property
    def activations(self) -> Callable[[Images], tuple[jax.Array, ...]]:
        """The network's ``activations``, of images in [0, 1]; AttributeError where it has none."""
        inner = self.model.activations  # type: ignore[attr-defined]
        return lambda x: tuple(inner(self._normalised(x)))

    def _normalised(self, x: Images) -> Images:
        mean, std = (jnp.asarray(part, x.dtype).reshape(1, 1, 1, -1) for part in (self.mean, self.std))
        return (x - mean) / std


class EOT(Struct):
    """The expectation over ``n`` fresh draws of a randomised model: its mean logits.

    Draws are computed one after the other and recomputed in the backward pass, so memory does not grow with
    ``n``.  ``reseed`` replaces the keys of the inner model; every draw folds its number into them.  For a
    deterministic model the result is its own logits.

    Attributes:
        model: a randomised model, with one key per row.
        n: number of draws, static; at least 30 for an adaptive attack.

    References:
        Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018, arXiv:1707.07397.
    """

    model: Classifier
    n: int = static(30)

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"EOT.n must be an integer of at least 1, got {self.n!r}")

    def __call__(self, x: Images) -> Logits:
        """Return the mean logits [B, K]."""

        @partial(jax.checkpoint, prevent_cse=False)  # otherwise the gradient stores every draw's activations
        def once(x: Images, number: jax.Array) -> Logits:
            logits: Logits = _redrawn(self.model, number)(x)
            return logits

        def draw(total: Logits, number: jax.Array) -> tuple[Logits, None]:
            return total + once(x, number), None

        nothing = varying_alike(jnp.zeros_like(self.model(x)), x)
        return lax.scan(draw, nothing, jnp.arange(self.n))[0] / self.n


def _redrawn(model: Any, number: jax.Array) -> Any:
    """Fold a number into every key of every row."""

    def folded(keys: Keys, order: int) -> Keys:
        del order
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(typed_key(keys), number)

    return with_row_keys(model, folded)


def straight_through(transform: Callable[[Images], Images]) -> "StraightThrough":
    """Return the transform with the identity's gradient; a plain function must be at module level."""
    is_function = jax.tree_util.all_leaves([transform])
    return StraightThrough(jax.tree_util.Partial(transform) if is_function else transform)


class StraightThrough(Struct):
    """A transform of images with the gradient of the identity (BPDA).

    ``t(x)`` in the forward pass, ``dt/dx = 1`` in the backward pass.  ``transform`` itself is not
    differentiated, and may run on the host.

    Attributes:
        transform: images [B, H, W, C] -> images of the same shape, a pytree.

    References:
        Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018,
        arXiv:1802.00420.
    """

    transform: Callable[[Images], Images]

    def __call__(self, x: Images) -> Images:
        """Return the transformed images."""
        changed = self.transform(lax.stop_gradient(x))
        return x + lax.stop_gradient(changed - x)

"""The replaceable parts of a gradient attack: its start and its step rule.

A start is a function ``start(keys, x, eps, norm) -> x0`` in the ball and the box.  A step rule is a
pytree with ``init(x) -> state`` and ``update(gradient, state, step_size, norm) -> (step, state)``; its
floats are traced.  Both are row by row.  ``eps`` and ``step_size`` are numbers, or [B, 1, 1, 1] if the attack
has one per image.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import optax

from deepsec_jax.attacks.geometry import l2_norm, steepest, uniform_in_ball, uniform_in_unit_ball
from deepsec_jax.field_checks import not_negative, positive
from deepsec_jax.protocols import Images, Keys, Scalar
from deepsec_jax.pytree import Struct, field, static


class Start(Protocol):
    """The start of an attack; ``keys`` is None if the attack was called without a key."""

    def __call__(self, keys: Keys | None, x: Images, eps: Scalar, norm: str) -> Images: ...


def at_input(keys: Keys | None, x: Images, eps: Scalar, norm: str) -> Images:
    """Start at the clean image."""
    del keys, eps, norm
    return x


def in_ball(keys: Keys, x: Images, eps: Scalar, norm: str) -> Images:
    """Start at a uniform random point of the eps-ball, clipped to the box."""
    return uniform_in_ball(keys, x, eps, norm)


def at_radius(keys: Keys, x: Images, eps: Scalar, norm: str) -> Images:
    """Start at distance eps from the clean image in a random direction, clipped to the box.

    L-inf: uniform noise, scaled so that its largest entry is eps.  L2: a direction uniform on the sphere.
    """
    noise = uniform_in_unit_ball(keys, x.shape[1:], norm)
    size = jnp.max(jnp.abs(noise), axis=(1, 2, 3)) if norm == "linf" else l2_norm(noise)
    return jnp.clip(x + eps * noise / size[:, None, None, None], min=0.0, max=1.0)


class StepRule(Protocol):
    """A step rule: gradient -> step."""

    def init(self, x: Images) -> Any:
        """Return the state before the first step."""
        ...

    def update(self, gradient: Images, state: Any, step_size: Scalar, norm: str) -> tuple[Images, Any]:
        """Return the step to add (before projection) and the next state."""
        ...


class Refinement(Protocol):
    """Changes a gradient by gradients at other points, against overfitting to the model."""

    def init(self, x: Images) -> Any:
        """Return the state before the first step."""
        ...

    def update(
        self, gradient: Images, gradient_of: Callable[[jax.Array | int, Images], Images], x: Images,
        keys: Keys | None, eps: Scalar, norm: str, state: Any,
    ) -> tuple[Images, Any]:  # fmt: skip
        """Return the gradient to step along, and the next state.

        Args:
            gradient: at ``x``, [B, H, W, C].
            gradient_of: number, point -> gradient there; each number has draws of its own.
            x: the iterate, float32.
            keys: of this step, one per row, or None.
            eps: radius of the ball.
            norm: of the ball.
            state: of the step before.
        """
        ...


def a_rule(value: Any) -> Any:
    """Return a step rule, or jax's placeholder, unchanged: a check of a field."""
    if isinstance(value, type | str | float):
        raise ValueError(f"must be a step rule, got {value!r}: give an object such as Momentum(0.9)")
    return value


class Steepest(Struct):
    """The steepest step of the norm: step_size x sign(g), or step_size x g / ||g||_2."""

    version: ClassVar[int] = 1

    def init(self, x: Images) -> tuple[()]:
        """Return no state."""
        return ()

    def update(
        self, gradient: Images, state: tuple[()], step_size: Scalar, norm: str
    ) -> tuple[Images, tuple[()]]:
        """Return the step along this gradient alone."""
        return step_size * steepest(gradient, norm), state


class Momentum(Struct):
    """Steepest step along the accumulated gradient g <- decay g + grad / ||grad||_1.

    Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv:1710.06081.
    """

    decay: Scalar = field(1.0, check=not_negative)

    version: ClassVar[int] = 1

    def init(self, x: Images) -> Images:
        """Return the zero momentum."""
        return jnp.zeros_like(x)

    def update(self, gradient: Images, state: Images, step_size: Scalar, norm: str) -> tuple[Images, Images]:
        """Return the step along the accumulated gradient, and that gradient."""
        size = jnp.sum(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
        state = self.decay * state + gradient / jnp.where(size > 0, size, 1.0)
        return step_size * steepest(state, norm), state


class Cosine(Struct):
    """Decreasing steps of another rule: the t-th times (1 + cos(pi t / steps)) / 2, from t = 0.

    Sign steps of constant length oscillate.  This prevents success if it depends on exact pixel values, as
    with a detector that measures the error of an autoencoder.

    Attributes:
        steps: number of steps until the length is 0, above 0; those of the attack.
        rule: the rule whose steps are shortened, a pytree.
    """

    steps: Scalar = field(100, check=positive)
    rule: StepRule = Steepest()

    version: ClassVar[int] = 1

    def init(self, x: Images) -> tuple[jax.Array, Any]:
        """Return the number of steps so far, and the rule's state."""
        return jnp.zeros((), jnp.float32), self.rule.init(x)

    def update(
        self, gradient: Images, state: tuple[jax.Array, Any], step_size: Scalar, norm: str
    ) -> tuple[Images, tuple[jax.Array, Any]]:
        """Return the rule's step, shortened, and the next state."""
        taken, inner = state
        share = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(taken / self.steps, 1.0)))
        step, inner = self.rule.update(gradient, inner, step_size * share, norm)
        return step, (taken + 1.0, inner)


class Optax(Struct):
    """Any optax transformation, such as ``optax.scale_by_adam()``, times step_size.

    The transformation is static: build it once, outside of loops.  It runs per row, so examples share no
    state.
    """

    transformation: optax.GradientTransformation = static(optax.scale_by_adam())

    def init(self, x: Images) -> Any:
        """Return the transformation's state for each row."""
        return jax.vmap(self.transformation.init)(x)

    def update(self, gradient: Images, state: Any, step_size: Scalar, norm: str) -> tuple[Images, Any]:
        """Return the transformed gradient times step_size; the norm only matters in the projection."""
        del norm
        # optax mixes dtypes in Adam's bias correction, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = jax.vmap(self.transformation.update)(gradient, state)
        return step_size * updates, state

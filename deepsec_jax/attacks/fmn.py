"""FMN: the fast minimum-norm attack, in four norms."""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import BALLS, DUAL, free_part, onto_ball, size_of
from deepsec_jax.attacks.best_so_far import (
    Closest,
    at_steps,
    closer,
    cosine,
    none_yet,
    per_row,
    step_until_closest,
)
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, steepest, towards
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import max_margin, succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, not_negative, optional
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class FMN(Struct):
    """Maximise the margin inside a ball whose radius adapts to the decision boundary.

        delta <- clip(onto_ball(delta + a g / ||g||_2, radius)),   g = grad margin(x + delta)
        radius <- (1 - gamma) radius  where the goal is reached, never above the closest success,
                  (1 + gamma) radius  where it is not but was before,
                  ||delta|| + |margin| / ||g||_dual  as long as it never was,

    where g is without the entries that would leave the box.  (The authors keep them; on images with many
    zeros and ones their radius then does not reach the boundary.)  Step length a and gamma decrease as a
    cosine.  In L0 the radius changes by at least one entry.  Returns the closest success of all iterates, or
    the clean image. ``steps`` gradients per example.

    Attributes:
        steps: number of steps, static.
        norm: "l0", "l1", "l2" or "linf", static.
        step_size: first length of a step, in L2; None takes the authors' 1, and 10 for L-inf.
        last_step_size: length of the last step, as a share of the first.
        gamma: first relative change of the radius.
        last_gamma: the last one.
        targeted: ``labels`` are targets to reach, static.

    References:
        Pintor, Roli, Brendel, Biggio, "Fast Minimum-norm Adversarial Attacks through Adaptive Norm
        Constraints", NeurIPS 2021, arXiv:2102.12827.
    """

    steps: int = static(1000, check=count)
    norm: Norm = static("l2", check=norm_of(*BALLS))
    step_size: Scalar | None = field(None, check=optional(not_negative))
    last_step_size: Scalar = 0.01
    gamma: Scalar = 0.05
    last_gamma: Scalar = 0.001
    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="FMN",
        title="Fast minimum-norm attack",
        reference="Pintor et al., NeurIPS 2021, arXiv:2102.12827",
        goal="untargeted",
        kind="minimum-norm",
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return Cost(0.0, float(self.steps), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        rows = x.shape[0]
        state = _State(
            x=x, labels=labels, model_keys=split_keys(keys).model, steps=jnp.zeros(rows, jnp.int32),
            delta=jnp.zeros(x.shape, jnp.float32),
            radius=jnp.full(rows, 1.0 if self.norm == "l0" else jnp.inf, jnp.float32), best=none_yet(x),
        )  # fmt: skip
        best, steps = step_until_closest(partial(_stepped, self, model), state, steps=self.steps)
        return Counted(best.x, jnp.zeros(rows, jnp.float32), steps.astype(jnp.float32))


class _State(NamedTuple):
    x: Images
    labels: Labels
    model_keys: Keys | None
    steps: jax.Array  # int32 [B]
    delta: Images  # float32; x + delta lies in the box
    radius: jax.Array  # float32 [B]
    best: Closest


def _stepped(attack: FMN, model: Classifier, state: _State) -> _State:
    """Return the state after one more gradient of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    sign = -1.0 if attack.targeted else 1.0
    asked = at_steps(model, state.model_keys, state.steps)

    def objective(point: Images) -> tuple[jax.Array, jax.Array]:
        logits = open_logits(asked, asked(point.astype(x.dtype)), state.labels, targeted=attack.targeted)
        reached = succeeded(logits, state.labels, targeted=attack.targeted)
        return sign * max_margin(logits, state.labels), reached

    stored = towards(clean + state.delta, x)
    margin, reached, gradient = value_and_gradient(objective, at_least_float32(stored))
    gradient = free_part(gradient, stored.astype(jnp.float32))
    size = size_of(stored.astype(jnp.float32) - clean, attack.norm)
    best = closer(state.best, stored, reached, size)

    first = attack.step_size
    if first is None:
        first = 10.0 if attack.norm == "linf" else 1.0
    left = cosine(state.steps, attack.steps)
    gamma = attack.last_gamma + (attack.gamma - attack.last_gamma) * left
    length = first * (attack.last_step_size + (1.0 - attack.last_step_size) * left)
    radius = _radius(attack.norm, state.radius, gamma, reached, size, best, margin, gradient)
    # The largest distance inside the box.
    radius = jnp.minimum(radius, size_of(jnp.maximum(clean, 1.0 - clean), attack.norm))
    inside = onto_ball(state.delta + per_row(length) * steepest(gradient, "l2"), radius, attack.norm)
    delta = jnp.clip(clean + inside, min=0.0, max=1.0) - clean
    return state._replace(steps=state.steps + 1, delta=delta, radius=radius, best=best)


def _radius(
    norm: str,
    radius: jax.Array,
    gamma: jax.Array,
    reached: jax.Array,
    size: jax.Array,
    best: Closest,
    margin: jax.Array,
    gradient: Images,
) -> jax.Array:
    """Return each row's next radius, float32 [B]."""
    smaller, larger = radius * (1.0 - gamma), radius * (1.0 + gamma)
    if norm == "l0":  # whole entries
        smaller = jnp.maximum(jnp.minimum(radius - 1.0, jnp.floor(smaller)), 0.0)
        larger = jnp.maximum(radius + 1.0, jnp.floor(larger))
        return jnp.where(reached, jnp.minimum(smaller, best.distance), larger)
    slope = size_of(gradient, DUAL[norm])
    ahead = jnp.abs(margin) / jnp.where(slope > 0, slope, 1.0)
    boundary = size + jnp.maximum(ahead, gamma * size)  # the box may increase the distance
    found = jnp.isfinite(best.distance)
    return jnp.where(reached, jnp.minimum(smaller, best.distance), jnp.where(found, larger, boundary))

"""Sigma-zero: the fewest changed entries, by gradients of a smooth approximation of their number."""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import size_of
from deepsec_jax.attacks.best_so_far import (
    Closest,
    as_stored,
    at_steps,
    closer,
    cosine,
    none_yet,
    per_row,
    step_until_closest,
)
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import max_margin, succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, positive
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class SigmaZero(Struct):
    """Minimise a smooth count of the changed entries, and set those below a threshold to 0 in each step.

        minimise   max(-margin(x + delta), 0) + 1/d sum_i delta_i^2 / (delta_i^2 + sigma)

    by Adam on gradients scaled to L-inf norm 1.  After each step, entries below the row's threshold become 0;
    the threshold increases if the goal is reached and decreases otherwise.  Step size and threshold change
    follow a cosine.  Returns the success with the fewest changed entries, or the clean image.  ``steps``
    gradients per example.

    Attributes:
        steps: number of steps, static.
        learning_rate: Adam's initial value; it decreases to a tenth.
        sigma: smoothness of the count; smaller is closer to L0.
        threshold: first threshold.
        threshold_step: change of the threshold per step, times the learning rate.
        targeted: ``labels`` are targets to reach, static.

    References:
        Cina et al., "sigma-zero: Gradient-based Optimization of l0-norm Adversarial Examples", ICLR 2025,
        arXiv:2402.01879.
    """

    steps: int = static(1000, check=count)
    learning_rate: Scalar = 1.0
    sigma: Scalar = field(0.001, check=positive)
    threshold: Scalar = 0.3
    threshold_step: Scalar = 0.01
    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="sigma-zero",
        title="Fewest changed entries, by gradients",
        reference="Cina et al., ICLR 2025, arXiv:2402.01879",
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
        nothing = jnp.zeros(x.shape, jnp.float32)
        state = _State(
            x=x, labels=labels, model_keys=split_keys(keys).model, steps=jnp.zeros(rows, jnp.int32),
            delta=nothing, moments=jax.vmap(optax.scale_by_adam().init)(nothing),
            threshold=jnp.broadcast_to(jnp.asarray(self.threshold, jnp.float32), (rows,)), best=none_yet(x),
        )  # fmt: skip
        best, steps = step_until_closest(partial(_stepped, self, model), state, steps=self.steps)
        return Counted(best.x, jnp.zeros(rows, jnp.float32), steps.astype(jnp.float32))


class _State(NamedTuple):
    x: Images
    labels: Labels
    model_keys: Keys | None
    steps: jax.Array  # int32 [B]
    delta: Images  # float32; x + delta lies in the box
    moments: optax.OptState  # Adam's
    threshold: jax.Array  # float32 [B]
    best: Closest


def _stepped(attack: SigmaZero, model: Classifier, state: _State) -> _State:
    """Return the state after one more gradient of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    sign = -1.0 if attack.targeted else 1.0
    asked = at_steps(model, state.model_keys, state.steps)

    def objective(delta: Images) -> tuple[jax.Array, tuple[Images, jax.Array]]:
        stored = as_stored(clean + delta, x)
        logits = open_logits(asked, asked(stored), state.labels, targeted=attack.targeted)
        missing = jnp.maximum(-sign * max_margin(logits, state.labels), 0.0)
        count = jnp.mean(delta**2 / (delta**2 + attack.sigma), axis=(1, 2, 3))
        return missing + count, (stored, succeeded(logits, state.labels, targeted=attack.targeted))

    _, (stored, reached), gradient = value_and_gradient(objective, state.delta)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    best = closer(state.best, stored, reached, size_of(stored.astype(jnp.float32) - clean, "l0"))

    largest = size_of(gradient, "linf")
    scaled = gradient / per_row(jnp.where(largest > 0, largest, 1.0))
    # optax mixes dtypes in Adam's bias correction, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        update, moments = jax.vmap(optax.scale_by_adam().update)(scaled, state.moments)
    rate = attack.learning_rate * (0.1 + 0.9 * cosine(state.steps, attack.steps))
    moved = jnp.clip(clean + state.delta - per_row(rate) * update, min=0.0, max=1.0) - clean
    change = jnp.where(reached, 1.0, -1.0) * attack.threshold_step * rate
    threshold = jnp.clip(state.threshold + change, min=0.0, max=1.0)
    return state._replace(
        steps=state.steps + 1, moments=moments, threshold=threshold, best=best,
        delta=jnp.where(jnp.abs(moved) < per_row(threshold), 0.0, moved),
    )  # fmt: skip

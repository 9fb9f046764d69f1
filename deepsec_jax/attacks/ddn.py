"""DDN: decoupled direction and norm, a fast search for the smallest change in L2."""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import free_part
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
from deepsec_jax.attacks.geometry import at_least_float32, l2_norm, steepest, towards
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.layer_losses import of_logits
from deepsec_jax.attacks.losses import Loss, logit_gap, succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class DDN(Struct):
    """Take the direction from the gradient, and increase or decrease the length by success only.

        u <- delta + a grad loss(x + delta) / ||grad||_2
        length <- (1 - gamma) length  where the goal is reached,  (1 + gamma) length  where it is not
        delta <- clip(length u / ||u||_2)

    Entries of the gradient that would leave the box are left out.  The step length a decreases from
    ``step_size`` to a hundredth of it as a cosine.  Returns the closest success of all iterates, or the clean
    image. ``steps`` gradients per example.

    Attributes:
        steps: number of steps, static.
        step_size: first length of a step, in L2.
        gamma: relative change of the length.
        length: first length of the change, in L2.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name, static.

    References:
        Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and
        Defenses", CVPR 2019, arXiv:1811.09600.
    """

    steps: int = static(1000, check=count)
    step_size: Scalar = 1.0
    gamma: Scalar = 0.05
    length: Scalar = 1.0
    targeted: bool = static(False)
    loss: Loss | str = static(logit_gap, check=of_logits)

    card: ClassVar[Card] = Card(
        name="DDN",
        title="Decoupled direction and norm",
        reference="Rony et al., CVPR 2019, arXiv:1811.09600",
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
            length=jnp.broadcast_to(jnp.asarray(self.length, jnp.float32), (rows,)), best=none_yet(x),
        )  # fmt: skip
        best, steps = step_until_closest(partial(_stepped, self, model), state, steps=self.steps)
        return Counted(best.x, jnp.zeros(rows, jnp.float32), steps.astype(jnp.float32))


class _State(NamedTuple):
    x: Images
    labels: Labels
    model_keys: Keys | None
    steps: jax.Array  # int32 [B]
    delta: Images  # float32; x + delta lies in the box
    length: jax.Array  # float32 [B]
    best: Closest


def _stepped(attack: DDN, model: Classifier, state: _State) -> _State:
    """Return the state after one more gradient of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    sign = -1.0 if attack.targeted else 1.0
    asked = at_steps(model, state.model_keys, state.steps)

    def objective(point: Images) -> tuple[jax.Array, jax.Array]:
        logits = open_logits(asked, asked(point.astype(x.dtype)), state.labels, targeted=attack.targeted)
        reached = succeeded(logits, state.labels, targeted=attack.targeted)
        return sign * of_logits(attack.loss)(logits, state.labels), reached

    stored = towards(clean + state.delta, x)
    _, reached, gradient = value_and_gradient(objective, at_least_float32(stored))
    gradient = free_part(gradient, stored.astype(jnp.float32))
    best = closer(state.best, stored, reached, l2_norm(stored.astype(jnp.float32) - clean))

    rate = attack.step_size * (0.01 + 0.99 * cosine(state.steps, attack.steps))
    moved = state.delta + per_row(rate) * steepest(gradient, "l2")
    length = state.length * jnp.where(reached, 1.0 - attack.gamma, 1.0 + attack.gamma)
    scaled = per_row(length) * steepest(moved, "l2")
    delta = jnp.clip(clean + scaled, min=0.0, max=1.0) - clean
    return state._replace(steps=state.steps + 1, delta=delta, length=length, best=best)

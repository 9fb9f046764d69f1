"""PDPGD: primal-dual proximal gradient descent, a search for the smallest change in four norms."""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import BALLS, size_of
from deepsec_jax.attacks.best_so_far import (
    Closest,
    as_stored,
    at_steps,
    closer,
    none_yet,
    per_row,
    step_until_closest,
)
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, l2_norm
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import max_margin, succeeded
from deepsec_jax.attacks.proximal import proximal
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, not_negative, optional, positive, share
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static

PROXIMAL_STEPS = 5
"""Iterations of the proximal step in Adam's metric (the authors' value)."""

SETTLED = 0.01
"""Relative change at which these iterations end (the authors' value)."""

LEAST_WEIGHT = 1e-6
"""Smallest ratio of the two multipliers, either way (the authors' value)."""

ENOUGH_STEPS = 500
"""The number of steps for which the usual rates were chosen (the default of adv-lib)."""


class PDPGD(Struct):
    """Descend the Lagrangian of size and margin in the image, and ascend it in the multipliers.

        minimise over delta, maximise over w in (0, 1):
            (1 - w) ||delta|| + w softplus(-margin(x + delta))

    Each step is one of Adam on the margin's term, then a proximal step of the norm in Adam's metric, then a
    clip to the box.  log(w / (1 - w)) increases where the goal is not reached and decreases where it is; the
    step uses a moving average of w.  In L0 the proximal step is that of the sum of |delta|^(2/3).  The step
    size of Adam decreases exponentially, that of the multiplier linearly.

    Differences from adv-lib, which has one set of rates for all norms and any number of steps:

    - In L0 Adam's first step is 1, the width of the box, not 0.1: a changed entry counts the same however far
      it moves.  With 0.1 no few entries can fool the model within a hundred steps, so most changes stay.
    - With fewer than 500 steps the distance has ten times the first weight.  In L2 and L-inf the multiplier
      also changes more per step, so that it can move as far in all; in L0 and L1 this makes images farther.
    - The proximal point in L0 is the exact minimum.  adv-lib's closed form, in float32, is NaN where the
      penalty is tiny beside the entry, and makes it 0.  At a first step of 0.1 these zeros make its images
      sparser; in float64 they vanish, and the advantage with them (docs/measured-strength.md).

    Returns the closest success of all iterates, or the clean image. ``steps`` gradients per example.

    Attributes:
        steps: number of steps, static.
        norm: "l0", "l1", "l2" or "linf", static.
        learning_rate: Adam's initial value; None takes 0.1, and 1 in L0.
        last_learning_rate: Adam's last value, as a share of the first.
        dual_rate: first change of log(w / (1 - w)) per step; it decreases to a tenth.  None takes 0.1; in
            L2 and L-inf with fewer than 500 steps 50 / steps.
        ratio: first value of (1 - w) / w; smaller values weigh the margin more.  None takes 0.01; in L0 and
            with fewer than 500 steps 0.1.
        average: weight of the past in the moving average of w.
        targeted: ``labels`` are targets to reach, static.

    References:
        Matyasko, Chau, "PDPGD: Primal-Dual Proximal Gradient Descent Adversarial Attack", arXiv:2106.01538.
        The proximal step in Adam's metric: Melchior, Joseph, Moolekamp, "Proximal Adam", arXiv:1910.10094.
    """

    steps: int = static(500, check=count)
    norm: Norm = static("l1", check=norm_of(*BALLS))
    learning_rate: Scalar | None = field(None, check=optional(not_negative))
    last_learning_rate: Scalar = field(0.01, check=positive)
    dual_rate: Scalar | None = field(None, check=optional(not_negative))
    ratio: Scalar | None = field(None, check=optional(positive))
    average: Scalar = field(0.9, check=share)
    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="PDPGD",
        title="Primal-dual proximal gradient descent",
        reference="Matyasko, Chau, arXiv:2106.01538",
        goal="untargeted",
        kind="minimum-norm",
        version=2,
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
        ratio = _values(self)[2]
        dual = jnp.broadcast_to(-jnp.log(jnp.asarray(ratio, jnp.float32)), (rows,))
        state = _State(
            x=x, labels=labels, model_keys=split_keys(keys).model, steps=jnp.zeros(rows, jnp.int32),
            delta=nothing, moments=jax.vmap(optax.scale_by_adam().init)(nothing),
            dual=dual, weight=jax.nn.sigmoid(dual), best=none_yet(x),
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
    dual: jax.Array  # float32 [B]: log(w / (1 - w))
    weight: jax.Array  # float32 [B]: moving average of w
    best: Closest


def _stepped(attack: PDPGD, model: Classifier, state: _State) -> _State:
    """Return the state after one more gradient of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    sign = -1.0 if attack.targeted else 1.0
    asked = at_steps(model, state.model_keys, state.steps)

    def objective(delta: Images) -> tuple[jax.Array, tuple[Images, jax.Array]]:
        stored = as_stored(clean + delta, x)
        logits = open_logits(asked, asked(stored), state.labels, targeted=attack.targeted)
        missing = -sign * max_margin(logits, state.labels)
        return jax.nn.softplus(missing), (stored, succeeded(logits, state.labels, targeted=attack.targeted))

    _, (stored, reached), gradient = value_and_gradient(objective, state.delta)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    best = closer(state.best, stored, reached, size_of(stored.astype(jnp.float32) - clean, attack.norm))

    # optax mixes dtypes in Adam's bias correction, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        update, moments = jax.vmap(optax.scale_by_adam().update)(gradient, state.moments)
    done = state.steps.astype(jnp.float32) / attack.steps
    first, dual_rate, _ = _values(attack)
    rate = first * attack.last_learning_rate**done
    ahead = jnp.clip(clean + state.delta - per_row(rate) * update, min=0.0, max=1.0) - clean
    second = moments.nu / per_row(1.0 - 0.999 ** (state.steps.astype(jnp.float32) + 1.0))
    delta = _shrunk(attack.norm, clean, ahead, jnp.sqrt(second) + 1e-8, rate, state.weight)

    # From the first to a tenth of it in the last step.
    left = 1.0 - state.steps.astype(jnp.float32) / max(attack.steps - 1, 1)
    change = jnp.where(reached, -1.0, 1.0) * dual_rate * (0.1 + 0.9 * left)
    limit = -jnp.log(LEAST_WEIGHT)
    dual = jnp.clip(state.dual + change, min=-limit, max=limit)
    weight = attack.average * state.weight + (1.0 - attack.average) * jax.nn.sigmoid(dual)
    return state._replace(
        steps=state.steps + 1, delta=delta, moments=moments, dual=dual, weight=weight, best=best
    )


def _values(attack: PDPGD) -> tuple[Scalar, Scalar, Scalar]:
    """Return Adam's first step size, the multiplier's first change and its first ratio, None replaced."""
    in_l0, few = attack.norm == "l0", attack.steps < ENOUGH_STEPS
    sparse = attack.norm in ("l0", "l1")
    usual = (
        1.0 if in_l0 else 0.1,
        0.1 * ENOUGH_STEPS / attack.steps if few and not sparse else 0.1,
        0.1 if in_l0 or few else 0.01,
    )
    given = (attack.learning_rate, attack.dual_rate, attack.ratio)
    first, dual_rate, ratio = (value if own is None else own for own, value in zip(given, usual, strict=True))
    return first, dual_rate, ratio


def _shrunk(
    norm: str, clean: Images, ahead: Images, metric: Images, rate: jax.Array, weight: jax.Array
) -> Images:
    """Return the change after the proximal step of the norm, by a few iterations in Adam's metric.

    Args:
        norm: static.
        clean: float32 [B, H, W, C].
        ahead: the change after Adam's step.
        metric: Adam's denominator, positive.
        rate: Adam's step size [B].
        weight: of the margin, in (0, 1) [B].
    """
    largest = jnp.max(metric, axis=(1, 2, 3))
    amount = (1.0 - weight) / weight * rate / largest
    share = metric / per_row(largest)

    def iterate(_: int, carry: tuple[Images, jax.Array]) -> tuple[Images, jax.Array]:
        delta, moving = carry
        point = proximal(delta - share * (delta - ahead), amount, norm)
        new = jnp.clip(clean + point, min=0.0, max=1.0) - clean
        new = jnp.where(per_row(moving), new, delta)
        return new, moving & (l2_norm(new - delta) > SETTLED * l2_norm(new))

    start = varying_alike((ahead, jnp.ones(ahead.shape[0], bool)))
    closest: jax.Array = lax.fori_loop(0, PROXIMAL_STEPS, iterate, start)[0]
    return closest

"""JSMA: the Jacobian-based saliency map attack, two features at a time."""

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.best_so_far import at_steps, per_row
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.geometry import at_least_float32, towards
from deepsec_jax.attacks.gradient import pullbacks
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.saliency import best_pair, top_two
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import not_zero, one_of, share
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static

SALIENCIES = ("probabilities", "logits")
MARGIN = 0.01
"""A value this close to the bound counts as equal to it (the original's 0.99)."""


class JSMA(Struct):
    """Change the pair of features that most raises the target and lowers the others, until success.

    ``probabilities`` (the authors' map): with the softmax the other classes lose exactly what the target
    gains.  So the best pair is the top two of d log p_t = d (z_t - logsumexp(z)), which does not underflow.
    ``logits`` (DEEPSEC's map): the pair p, q with the largest product of d z_t and -d sum over j != t of z_j,
    each summed over the pair and above 0.

    With ``either`` a feature may increase or decrease by theta, at most once.  Features are ranked by
    derivative times change, as in M-JSMA.  If an image must become darker to reach the target, increases
    alone often fail.

    A feature is excluded when it reaches the bound in theta's direction.  If no pairs are left, or a share
    ``gamma`` of the entries has changed without success, the clean image is returned.  One gradient per pair
    and one more (``logits``: two).

    Attributes:
        theta: change of a feature per round, of either sign, not 0.
        gamma: share of the entries that may change (L0 budget).
        saliency: ``probabilities`` or ``logits``, static.
        either: whether features may change in both directions; with ``probabilities`` only, static.

    References:
        Papernot et al., "The Limitations of Deep Learning in Adversarial Settings", EuroS&P 2016,
        arXiv:1511.07528; both ways: Wiyatno, Xu, "Maximal Jacobian-based Saliency Map Attack", 2018,
        arXiv:1808.07945.
    """

    theta: Scalar = field(1.0, check=not_zero)
    gamma: Scalar = field(0.1, check=share)
    saliency: str = static("probabilities", check=one_of(*SALIENCIES))
    either: bool = static(False)

    card: ClassVar[Card] = Card(
        name="JSMA",
        title="Jacobian-based saliency map attack",
        reference="Papernot et al., EuroS&P 2016, arXiv:1511.07528",
        goal="targeted",
        kind="minimum-norm",
        budget="gamma",
    )
    targeted: ClassVar[bool] = True
    targets = label_targets

    def __post_init__(self) -> None:
        if self.either and self.saliency == "logits":
            raise ValueError("JSMA.either ranks single moves: it needs saliency='probabilities'")

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes
        looks = int(float(self.gamma) * entries / 2) + 1
        return Cost(0.0, float(looks * (2 if self.saliency == "logits" else 1)), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        rows, size = x.shape[0], math.prod(x.shape[1:])
        # The small term ensures two rounds for gamma = 0.25 of 16 entries in float32.
        rounds = jnp.floor(self.gamma * size / 2 + 1e-4).astype(jnp.int32)
        nothing = jnp.zeros(rows, bool)
        state = _State(x, labels, split_keys(keys).model, x, nothing, nothing, jnp.zeros(rows, jnp.int32))

        def live(state: _State) -> jax.Array:
            return ~(state.hit | state.stuck)

        def step(state: _State) -> _State:
            return rows_where(live(state), _round(self, model, state, rounds), state)

        last = while_live(step, live, state)
        found = jnp.where(per_row(last.hit), last.x_adv, x)
        looks = last.looks.astype(jnp.float32)
        return Counted(found, jnp.zeros_like(looks), looks * (2 if self.saliency == "logits" else 1))


class _State(NamedTuple):
    x: Images
    targets: Labels
    keys: Keys | None
    x_adv: Images  # in the dtype of x
    hit: jax.Array
    stuck: jax.Array  # no budget or no admissible pair left
    looks: jax.Array  # int32 [B]: gradients so far


def _round(attack: JSMA, model: Classifier, state: _State, rounds: jax.Array) -> _State:
    def logits_of(point: Images) -> jax.Array:
        return at_steps(model, state.keys, state.looks)(point.astype(state.x.dtype))

    point = at_least_float32(state.x_adv)
    flat = point.astype(jnp.float32).reshape(point.shape[0], -1)
    up = attack.theta > 0
    sign = jnp.where(up, 1.0, -1.0)
    logits, gradients = _class_gradients(attack, logits_of, point, state.targets)
    gradients = [part.reshape(flat.shape) for part in gradients]
    allowed = jnp.where(up, flat < 1.0 - MARGIN, flat > MARGIN)
    moved = jnp.clip(flat + attack.theta, min=0.0, max=1.0)
    if attack.either:
        back = jnp.clip(flat - attack.theta, min=0.0, max=1.0)
        gain, gain_back = gradients[0] * (moved - flat), gradients[0] * (back - flat)
        moved = jnp.where(gain_back > gain, back, moved)
        allowed = flat == state.x.astype(jnp.float32).reshape(flat.shape)  # once each
        pair = top_two(jnp.maximum(gain, gain_back), allowed & jnp.isfinite(gradients[0]))
    elif attack.saliency == "logits":
        ours, others = sign * gradients[0], -sign * gradients[1]
        pair = best_pair(ours, others, allowed & jnp.isfinite(ours) & jnp.isfinite(others))
    else:
        pair = top_two(sign * gradients[0], allowed & jnp.isfinite(gradients[0]))
    hit = succeeded(logits, state.targets, targeted=True)
    moves = ~hit & pair.found & (state.looks < rounds)
    index = jnp.arange(flat.shape[1])[None]
    chosen = (index == pair.first[:, None]) | (index == pair.second[:, None])
    changed = jnp.where(chosen & moves[:, None], moved, flat)
    x_adv = towards(changed.reshape(point.shape), state.x)
    return state._replace(x_adv=x_adv, hit=hit, stuck=~hit & ~moves, looks=state.looks + 1)


def _class_gradients(
    attack: JSMA, logits_of: Any, point: Images, targets: Labels
) -> tuple[jax.Array, list[jax.Array]]:
    """Return the logits, and the gradients for the saliency: of the target, and of the others."""
    classes = jax.eval_shape(logits_of, point).shape[-1]
    target = jax.nn.one_hot(targets, classes, dtype=jnp.float32)
    if attack.saliency == "logits":

        def both(point: Images) -> jax.Array:
            logits = logits_of(point).astype(jnp.float32)
            ours = jnp.sum(jnp.where(target > 0, logits, 0.0), axis=-1)
            # A masked class has no gradient.
            others = jnp.sum(jnp.where((target > 0) | ~jnp.isfinite(logits), 0.0, logits), axis=-1)
            return jnp.concatenate([ours[:, None], others[:, None], logits], axis=1)

        chosen = jax.nn.one_hot(jnp.arange(2), classes + 2, dtype=jnp.float32)
        chosen = jnp.broadcast_to(chosen[:, None], (2, len(targets), classes + 2))
        values, gradients = pullbacks(both, point, chosen)
        return values[:, 2:], [gradients[0], gradients[1]]

    def log_probability(point: Images) -> jax.Array:
        logits = logits_of(point).astype(jnp.float32)
        # d log p_t = d z_t - sum p_j d z_j; over the other classes only, so that p_t = 1 gives no zero.
        rivals = jnp.where(target > 0, -jnp.inf, logits)
        value = jnp.sum(jnp.where(target > 0, logits, 0.0), axis=-1) - jax.nn.logsumexp(rivals, axis=-1)
        return jnp.concatenate([value[:, None], logits], axis=1)

    only_value = jax.nn.one_hot(jnp.zeros_like(targets), classes + 1, dtype=jnp.float32)
    values, gradients = pullbacks(log_probability, point, only_value[None])
    return values[:, 1:], [gradients[0]]

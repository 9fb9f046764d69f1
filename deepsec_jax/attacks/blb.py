"""BLB: Szegedy's box-constrained L-BFGS attack."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import at_step, split_keys
from deepsec_jax.attacks.best_so_far import as_stored, at_steps, reached, squared_l2
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.compaction import rows_where
from deepsec_jax.attacks.constant_search import (
    Problem,
    Progress,
    first_problem,
    search_constant,
    starting_images,
)
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.lbfgs import Lbfgs, lbfgs_start, lbfgs_step, trial_point
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, positive
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Logits, Scalar
from deepsec_jax.pytree import Struct, field, static

SHARPNESS = 40.0
"""Range of the sharpened logits of the clean image."""
FAR = 10.0
"""A first move of this L2 length misses minima that a shorter one finds."""


class BLB(Struct):
    """The closest image in L2 that is misclassified, by L-BFGS-B.

        minimise over x_adv in [0, 1]   ||x_adv - x||_2^2 + c loss(z(x_adv))

    with loss = -log p_t towards a target and -log(1 - p_y) away from the label, where p is the softmax of s
    z, divided by s.  Both are in forms that do not saturate before the goal is reached. s = 40 / (largest -
    smallest logit of the clean image, without masked classes): if this range is 40, the loss is plain
    cross-entropy. On any other scale of the logits the minimum has the same distance to the decision
    boundary.

    c is searched as in CW2, each run from the clean image; it is large enough if the minimum succeeds.  The
    objective has many minima, and tiny differences decide which one is reached.  If the first move is long, a
    run performs ``descents`` descents, each with a shorter limit of that move, and the lowest minimum counts.

    Returns the closest success of all evaluated points, or the clean image.  At most search_steps x steps
    gradients per example, and one forward.

    Attributes:
        c: first constant; with c above 50 a run starts half-way to grey, not at the clean image.
        search_steps: number of constants, static.
        steps: evaluations of the objective per constant, of all descents together, static.
        descents: maximum number of descents per constant, static.
        memory: number of stored pairs of L-BFGS, static.
        targeted: ``labels`` are targets to reach, static.

    References:
        Szegedy et al., "Intriguing properties of neural networks", ICLR 2014, arXiv:1312.6199.
    """

    c: Scalar = field(0.01, check=positive)
    search_steps: int = static(9, check=count)
    steps: int = static(150, check=count)
    descents: int = static(2, check=count)
    memory: int = static(10, check=count)
    targeted: bool = static(False)

    card: ClassVar[Card] = Card(
        name="BLB",
        title="Box-constrained L-BFGS",
        reference="Szegedy et al., ICLR 2014, arXiv:1312.6199",
        goal="targeted",
        kind="minimum-norm",
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return Cost(1.0, float(self.search_steps * self.steps), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        streams = split_keys(keys)
        clean = at_step(model, streams.model, 0)(x)
        opened = open_logits(model, clean, labels, targeted=self.targeted)
        logits = class_logits(model, clean).astype(jnp.float32)
        sharpness = SHARPNESS / jnp.maximum(_spread(logits), 1e-6)
        (best,), calls = search_constant(
            _Descent(self, model),
            first_problem(x, labels, streams.model, self.c, fixed=sharpness),
            reached(opened, labels, targeted=self.targeted),
            search_steps=self.search_steps, steps=self.steps, abort_early=False,
        )  # fmt: skip
        gradients = calls.astype(jnp.float32)
        return Counted(best.x, jnp.ones_like(gradients), gradients)


def _spread(logits: Logits) -> jax.Array:
    """Return largest minus smallest logit, without masked classes [B]."""
    there = jnp.isfinite(logits)
    largest = jnp.max(jnp.where(there, logits, -jnp.inf), axis=-1)
    smallest = jnp.min(jnp.where(there, logits, jnp.inf), axis=-1)
    return jnp.where(jnp.any(there, axis=-1), largest - smallest, 0.0)


def missing(logits: Logits, labels: Labels, sharpness: jax.Array, *, targeted: bool) -> jax.Array:
    """Return -log p_t / s, or untargeted -log(1 - p_y) / s, [B]: softplus of the negated logit gap.

    Args:
        logits: [B, K].
        labels: targets, or true classes, [B].
        sharpness: s, factor of the logits before the softmax, [B].
        targeted: whether ``labels`` are targets.
    """
    gap = logit_gap(sharpness[:, None] * logits.astype(jnp.float32), labels)
    return jax.nn.softplus(gap if targeted else -gap) / sharpness


def longest_first_move(descent: jax.Array) -> jax.Array:
    """Return the limit of a descent's first move: none, FAR, FAR / 3, ... in L2."""
    return jnp.where(descent == 0, jnp.inf, FAR * 3.0 ** (1.0 - descent.astype(jnp.float32)))


class _State(NamedTuple):
    lbfgs: Lbfgs
    descent: jax.Array  # int32 [B]: 0 for the first
    spent: jax.Array  # int32 [B]: evaluations of this descent
    holds: jax.Array  # bool [B]: its best point so far reaches the goal
    lowest: jax.Array  # [B], the lowest minimum of earlier descents, inf if there is none
    lowest_holds: jax.Array  # bool [B], whether that minimum reaches the goal


class _Descent(NamedTuple):
    attack: BLB
    model: Classifier

    def start(self, problem: Problem) -> _State:
        rows = problem.x.shape[0]
        nothing, fails = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)
        lowest = jnp.full(rows, jnp.inf, jnp.float32)
        return _State(self._top(problem, nothing), nothing, nothing, fails, lowest, fails)

    def _top(self, problem: Problem, descent: jax.Array) -> Lbfgs:
        point = starting_images(problem).reshape(problem.x.shape[0], -1)
        return lbfgs_start(point, self.attack.memory, longest_first_move(descent))

    def advance(self, state: _State, problem: Problem) -> Progress:
        x, labels, targeted = problem.x, problem.labels, self.attack.targeted
        model = at_steps(self.model, problem.model_keys, problem.calls)

        def objective(point: Images) -> tuple[jax.Array, tuple[Images, jax.Array, jax.Array]]:
            x_adv = as_stored(point, x)
            distance = squared_l2(x_adv.astype(jnp.float32) - x.astype(jnp.float32))
            logits = open_logits(model, model(x_adv), labels, targeted=targeted)
            values = distance + problem.c * missing(logits, labels, problem.fixed, targeted=targeted)
            return values, (x_adv, reached(logits, labels, targeted=targeted), distance)

        point = trial_point(state.lbfgs).reshape(x.shape)
        values, (x_adv, success, distance), gradient = value_and_gradient(objective, point)
        lbfgs, accepted, converged = lbfgs_step(state.lbfgs, values, gradient.reshape(x.shape[0], -1))
        # A line search may try a far point that succeeds; c is large enough only if the minimum succeeds.
        holds = jnp.where(accepted, success, state.holds)
        lower = lbfgs.value < state.lowest
        lowest = jnp.where(lower, lbfgs.value, state.lowest)
        lowest_holds = jnp.where(lower, holds, state.lowest_holds)

        descent, spent = state.descent + 1, state.spent + 1
        once = lbfgs.reach <= FAR  # no limit of the first move would change the result
        share = -(-self.attack.steps // self.attack.descents)
        bottom = converged | (~once & (spent >= share))
        last = bottom & (once | (descent >= self.attack.descents))
        zero, fails = jnp.zeros_like(spent), jnp.zeros_like(holds)
        again = _State(self._top(problem, descent), descent, zero, fails, lowest, lowest_holds)
        on = _State(lbfgs, state.descent, spent, holds, state.lowest, state.lowest_holds)
        after = rows_where(bottom, again, on)
        return Progress(after, x_adv, success, (distance,), values, last, lowest_holds)

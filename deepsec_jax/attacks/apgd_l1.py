"""APGD in L1: sparse sign steps whose number of entries and length follow the progress of each image."""

import math
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.aims import POOL, likeliest_wrong, nearest_wrong
from deepsec_jax.attacks.ascent import Best, better, split_keys
from deepsec_jax.attacks.balls import free_part, onto_l1_ball_in_box, size_of
from deepsec_jax.attacks.best_so_far import at_steps, per_row
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, towards
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.layer_losses import of_logits
from deepsec_jax.attacks.losses import (
    AimedLoss,
    Loss,
    dlr_to,
    find_loss,
    logit_gap,
    max_margin,
    ranked,
    succeeded,
)
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, function, integer
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static

RADII = (3.0, 2.0, 1.0)
"""Radii of the three parts of a run, as multiples of eps (the authors' schedule)."""

LONGER = 1.5
"""Factor by which steps and numbers of entries decrease (the authors' value)."""


class APGDL1(Struct):
    """Ascent in the intersection of an L1 ball and the box, without a step size to choose.

        x_{i+1} = project(x_i + s sign(g) m / ||m||_1),   m: the k largest entries of g = grad loss(x_i)

    A run has three parts, in balls of 3 eps, 2 eps and eps; each starts at the projection of the best point
    of the part before.  At a checkpoint k becomes the number of changed entries of the best point over 1.5.
    If this number fell by more than 5 %, the row returns to its best point with s = eps; otherwise s
    decreases by 1.5, to eps / 10 at least.  Entries of the gradient that would leave the box are left out.

    A run has ``steps`` + 3 gradients.  Targets, restarts and ``stops`` are those of
    :class:`~deepsec_jax.attacks.APGD`.

    Attributes:
        eps: radius of the ball in L1, in units of the [0, 1] pixel range; a number, or one per image, [B].
        steps: steps of a run, static; one per part at least.
        norm: "l1", static: :class:`~deepsec_jax.attacks.APGD` has the others.
        restarts: number of runs, or with ``aims`` rounds of runs, static.
        aims: number of target classes, static, at most K - 1; 0 maximises ``loss``.
        nearest: whether aims are chosen by distance to the linearised boundary instead of logits, static.
        targeted: ``labels`` are targets to reach, static; then ``aims`` must be 0.
        stops: whether a row ends with its first success, static.
        loss: loss to maximise without aims, or its name, static.
        aimed: loss to maximise with aims, static.

    References:
        Croce, Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021,
        arXiv:2103.01208.
    """

    eps: Scalar = 10.0
    steps: int = static(100, check=count)
    norm: Norm = static("l1", check=norm_of("l1"))
    restarts: int = static(1, check=count)
    aims: int = static(0, check=integer(0))
    nearest: bool = static(False)
    targeted: bool = static(False)
    stops: bool = static(True)
    loss: Loss | str = static(logit_gap, check=of_logits)
    aimed: AimedLoss = static(dlr_to, check=function)

    card: ClassVar[Card] = Card(
        name="L1-APGD",
        title="Auto-PGD in L1",
        reference="Croce, Hein, ICML 2021, arXiv:2103.01208",
        goal="untargeted",
        kind="budget",
    )
    needs_key: ClassVar[bool] = True
    targets = label_targets

    def __post_init__(self) -> None:
        if self.targeted and self.aims:
            raise ValueError(f"APGDL1.aims must be 0 where targeted is True, got {self.aims}")
        if self.nearest and not self.aims:
            raise ValueError("APGDL1.nearest chooses aims, of which there are none: set aims=")

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del entries
        runs = self.restarts * max(1, min(self.aims, classes - 1))
        chosen = min(classes, POOL + 1) if self.nearest else 0
        return Cost(
            float(self.aims > 0), runs * (sum(part_steps(self.steps)) + len(RADII)) + chosen, exact=False
        )

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        streams = split_keys(keys)
        rows, zeros = x.shape[0], jnp.zeros(x.shape[0], jnp.int32)
        aims, forwards, chosen = None, 0.0, 0
        if self.aims:
            asked, forwards = at_steps(model, streams.model, zeros), 1.0
            if self.nearest:
                aims = nearest_wrong(asked, x, labels, self.aims, "l1")
                chosen = min(classes_of(model, x), POOL + 1)
            else:
                aims = likeliest_wrong(asked, x, labels, self.aims)[0]
        runs = self.restarts * (1 if aims is None else aims.shape[1])
        eps = jnp.broadcast_to(jnp.ravel(jnp.asarray(self.eps, jnp.float32)), (rows,))
        clean = x.astype(jnp.float32)
        state = _State(
            x=x, labels=labels, eps=eps, aims=aims, keys=streams.attack, model_keys=streams.model,
            run=zeros, part=zeros, gradients=zeros,
            best=Best(x, jnp.zeros(rows, bool), jnp.full(rows, -jnp.inf, jnp.float32)),
            climb=_begin(clean, _drawn(clean, streams.attack, zeros), RADII[0] * eps),
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            left = state.run < runs
            return left & ~state.best.success if self.stops else left

        step = partial(_stepped, self, model)
        last = while_live(lambda state: rows_where(live(state), step(state), state), live, state)
        gradients = last.gradients.astype(jnp.float32) + chosen
        return Counted(last.best.x, jnp.full(rows, forwards, jnp.float32), gradients)


class _Climb(NamedTuple):
    """One part of a run; images are float32."""

    x: Images
    moves: jax.Array  # int32 [B]
    size: jax.Array  # float32 [B], L1 length of a step
    share: jax.Array  # float32 [B] of the entries, that a step changes
    changed: jax.Array  # float32 [B], entries that differ from the clean image's, at the last checkpoint
    best_x: Images
    best_gradient: Images
    best_loss: jax.Array


class _State(NamedTuple):
    x: Images
    labels: Labels
    eps: jax.Array  # float32 [B]
    aims: jax.Array | None  # int [B, k]: target classes
    keys: Keys | None
    model_keys: Keys | None
    run: jax.Array  # int32 [B]
    part: jax.Array  # int32 [B], of RADII
    gradients: jax.Array  # int32 [B]
    best: Best  # of all runs, inside eps
    climb: _Climb


def part_steps(steps: int) -> tuple[int, ...]:
    """Return the number of steps in each part of a run."""
    first = math.ceil(0.3 * steps)
    return first, first, max(steps - 2 * first, 1)


def _drawn(clean: Images, keys: Any, run: jax.Array) -> Images:
    """Return random points of a normal distribution around the clean images."""
    own = jax.vmap(jax.random.fold_in)(keys, run)
    return clean + jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], jnp.float32))(own)


def _begin(clean: Images, point: Images, radius: jax.Array) -> _Climb:
    """Return the state of rows before the first gradient of a part, at the projection of a point."""
    x = onto_l1_ball_in_box(point, clean, radius)
    changed = size_of(x - clean, "l0")
    return _Climb(
        x=x, moves=jnp.zeros(clean.shape[0], jnp.int32), size=radius,
        share=changed / (LONGER * clean[0].size), changed=changed,
        best_x=x, best_gradient=jnp.zeros_like(x), best_loss=jnp.full(radius.shape, -jnp.inf, jnp.float32),
    )  # fmt: skip


def _stepped(attack: APGDL1, model: Classifier, state: _State) -> _State:
    """Return the state after one more gradient of every row."""
    labels, x, climb = state.labels, state.x, state.climb
    clean = x.astype(jnp.float32)
    sign = -1.0 if attack.targeted else 1.0
    if state.aims is not None:
        number = (state.run % state.aims.shape[1])[:, None]
        aim = jnp.take_along_axis(state.aims, number, axis=1)[:, 0]
    asked = at_steps(model, state.model_keys, state.gradients)

    def objective(point: Images) -> tuple[jax.Array, Any]:
        logits = open_logits(asked, asked(point.astype(x.dtype)), labels, targeted=attack.targeted)
        success = succeeded(logits, labels, targeted=attack.targeted)
        if state.aims is None:
            loss = (sign * find_loss(attack.loss)(logits, labels)).astype(jnp.float32)
            rank = ranked(loss, logits)
            return loss, (success, rank, rank)
        loss = attack.aimed(logits, labels, aim).astype(jnp.float32)
        return loss, (success, ranked(loss, logits), ranked(max_margin(logits, labels), logits))

    stored = towards(climb.x, x)
    _, (success, loss, score), gradient = value_and_gradient(objective, at_least_float32(stored))
    gradient = free_part(gradient, climb.x)
    inside = size_of(at_least_float32(stored) - at_least_float32(x), "l1") <= state.eps
    # An image outside eps is no result, however far its loss has risen.
    best = better(state.best, stored, success & inside, jnp.where(inside, score, jnp.nan))

    takes = loss > climb.best_loss  # never a NaN
    climb = climb._replace(
        best_x=jnp.where(per_row(takes), climb.x, climb.best_x),
        best_gradient=jnp.where(per_row(takes), gradient, climb.best_gradient),
        best_loss=jnp.where(takes, loss, climb.best_loss),
    )
    radius = jnp.asarray(RADII, jnp.float32)[state.part] * state.eps
    climb, gradient = _looked_back(attack.steps, state.part, climb, gradient, clean, radius)
    moved = climb.x + per_row(climb.size) * _sparse_sign(gradient, climb.share)
    climb = climb._replace(x=onto_l1_ball_in_box(moved, clean, radius), moves=climb.moves + 1)
    return _next_part(attack.steps, state._replace(best=best, gradients=state.gradients + 1, climb=climb))


def _looked_back(
    steps: int, part: jax.Array, climb: _Climb, gradient: Images, clean: Images, radius: jax.Array
) -> tuple[_Climb, Images]:
    """Return the part of the run and its gradient after a checkpoint; rows at no checkpoint are unchanged."""
    spans = np.array([max(int(0.04 * each), 1) for each in part_steps(steps)], np.int32)
    due = (climb.moves > 0) & (climb.moves % jnp.asarray(spans)[part] == 0)
    changed = size_of(climb.best_x - clean, "l0")
    sparser = due & (changed < 0.95 * climb.changed)
    size = jnp.where(sparser, radius, jnp.maximum(climb.size / LONGER, radius / 10.0))
    return climb._replace(
        x=jnp.where(per_row(sparser), climb.best_x, climb.x),
        size=jnp.where(due, size, climb.size),
        share=jnp.where(due, changed / (LONGER * clean[0].size), climb.share),
        changed=jnp.where(due, changed, climb.changed),
    ), jnp.where(per_row(sparser), climb.best_gradient, gradient)


def _sparse_sign(gradient: Images, share: jax.Array) -> Images:
    """Return the signs of the largest entries, a share of all, divided by their number."""
    flat = jnp.abs(gradient).reshape(gradient.shape[0], -1)
    entries = flat.shape[1]
    place = jnp.clip(((1.0 - share) * entries).astype(jnp.int32), 0, entries - 1)
    least = jnp.take_along_axis(jnp.sort(flat, axis=1), place[:, None], axis=1)[:, 0]
    signs = jnp.where(jnp.abs(gradient) >= per_row(least), jnp.sign(gradient), 0.0)
    number = jnp.sum(jnp.abs(signs), axis=(1, 2, 3))
    return signs / per_row(jnp.where(number > 0, number, 1.0))


def _next_part(steps: int, state: _State) -> _State:
    """Return the state with the next part, or the next run, of rows at the end of theirs."""
    ended = state.climb.moves > jnp.asarray(part_steps(steps), jnp.int32)[state.part]
    last = ended & (state.part == len(RADII) - 1)
    part = jnp.where(last, 0, state.part + ended.astype(jnp.int32))
    run = state.run + last.astype(jnp.int32)

    def begun() -> _Climb:
        clean = state.x.astype(jnp.float32)
        point = jnp.where(per_row(last), _drawn(clean, state.keys, run), state.climb.best_x)
        radius = jnp.asarray(RADII, jnp.float32)[part] * state.eps
        return rows_where(ended, _begin(clean, point, radius), state.climb)

    climb = jax.lax.cond(jnp.any(ended), begun, lambda: state.climb)
    return state._replace(run=run, part=part, climb=climb)

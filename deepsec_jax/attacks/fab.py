"""FAB: the fast adaptive boundary attack, for several target classes in turn."""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.aims import likeliest_wrong
from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import size_of
from deepsec_jax.attacks.best_so_far import Closest, at_steps, closer, none_yet, per_row
from deepsec_jax.attacks.bisection import bisected
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, towards
from deepsec_jax.attacks.gradient import forward, value_and_gradient
from deepsec_jax.attacks.losses import margin_to, succeeded
from deepsec_jax.attacks.parts import at_radius
from deepsec_jax.attacks.planes import step_onto_plane
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, integer
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static


class FAB(Struct):
    """Steps to the linearised boundary of a wrong class, biased towards the clean image.

        d  = smallest step from x_i   in the box onto {z_aim = z_y}, linearised at x_i
        d' = smallest step from x     in the box onto the same plane,   a = min(||d|| / (||d|| + ||d'||), 0.1)
        x_{i+1} = clip((1 - a) (x_i + 1.05 d) + a (x + 1.05 d'))
        after a success   x_{i+1} <- 0.1 x + 0.9 x_{i+1}

    A row makes ``restarts`` rounds over its ``aims`` likeliest wrong classes.  The first round starts at the
    clean image, the others at random points within half the distance of the closest success, at most half of
    ``radius``. Returns the closest success of all iterates, or the clean image.  With ``refine`` the segment
    from there to the clean image is bisected at the end: the overshoot leaves most results up to 5 % too far.
    At most restarts x aims x steps gradients per example, as many forwards, one, and ``refine``.

    Attributes:
        steps: steps of a run, static.
        norm: "l1", "l2" or "linf", static.
        aims: number of target classes, static; at most K - 1.
        restarts: rounds of runs, static.
        radius: bound of the distance of random starts, in ``norm``; a number, or one per image, [B].
        bias: the largest a.
        overshoot: factor of the step beyond the plane.
        backward: share of the change kept after a success.
        refine: bisections at the end, static; 0 is the authors' algorithm.

    References:
        Croce, Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        ICML 2020, arXiv:1907.02044; targeted as in arXiv:2003.01690.
    """

    steps: int = static(100, check=count)
    norm: Norm = static("linf", check=norm_of("l1", "l2", "linf"))
    aims: int = static(9, check=count)
    restarts: int = static(1, check=count)
    radius: Scalar = 0.3
    bias: Scalar = 0.1
    overshoot: Scalar = 1.05
    backward: Scalar = 0.9
    refine: int = static(0, check=integer(0))

    card: ClassVar[Card] = Card(
        name="FAB",
        title="Fast adaptive boundary attack",
        reference="Croce, Hein, ICML 2020, arXiv:1907.02044",
        goal="untargeted",
        kind="minimum-norm",
    )

    @property
    def needs_key(self) -> bool:
        """Whether there are random starts."""
        return self.restarts > 1

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del entries
        steps = float(self.restarts * min(self.aims, classes - 1) * self.steps)
        return Cost(1.0 + steps + self.refine, steps, exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        streams = split_keys(keys)
        rows = x.shape[0]
        zeros = jnp.zeros(rows, jnp.int32)
        asked = at_steps(model, streams.model, zeros)
        aims, wrong = likeliest_wrong(asked, x, labels, self.aims)
        runs = self.restarts * aims.shape[1]
        state = _State(
            x=x, labels=labels, aims=aims, keys=streams.attack, model_keys=streams.model,
            radius=jnp.broadcast_to(jnp.ravel(jnp.asarray(self.radius, jnp.float32)), (rows,)),
            run=zeros, steps=zeros, calls=zeros, point=x.astype(jnp.float32),
            best=closer(none_yet(x), x, wrong, jnp.zeros(rows, jnp.float32)),
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            return (state.run < runs) & (state.best.distance > 0)

        step = partial(_stepped, self, model)
        last = while_live(lambda state: rows_where(live(state), step(state), state), live, state)
        calls = last.calls.astype(jnp.float32)
        best = bisected(last.best, self.refine, model, x, labels, streams.model, self.norm)
        found = jnp.isfinite(last.best.distance) & (last.best.distance > 0)
        return Counted(best.x, 1.0 + calls + jnp.where(found, float(self.refine), 0.0), calls)


class _State(NamedTuple):
    x: Images
    labels: Labels
    radius: jax.Array  # float32 [B]
    aims: jax.Array  # int [B, k]
    keys: Keys | None
    model_keys: Keys | None
    run: jax.Array  # int32 [B]
    steps: jax.Array  # int32 [B] of this run
    calls: jax.Array  # int32 [B] of all runs
    point: Images  # float32, x_i
    best: Closest


def _stepped(attack: FAB, model: Classifier, state: _State) -> _State:
    """Return the state after one more step of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    number = (state.run % state.aims.shape[1])[:, None]
    aim = jnp.take_along_axis(state.aims, number, axis=1)[:, 0]
    asked = at_steps(model, state.model_keys, 2 * state.calls + 1)

    def margin(point: Images) -> tuple[jax.Array, None]:
        logits = open_logits(asked, asked(point.astype(x.dtype)), state.labels, targeted=False)
        return margin_to(logits, state.labels, aim), None

    gap, _, slope = value_and_gradient(margin, at_least_float32(towards(state.point, x)))
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    # The plane is at <slope, d> = -gap from here; negative if the aim leads already.
    from_clean = -gap + jnp.sum(slope * (state.point - clean), axis=(1, 2, 3))
    here = _signed_step(state.point, slope, -gap, attack.norm)
    there = _signed_step(clean, slope, from_clean, attack.norm)
    near, far = size_of(here, attack.norm), size_of(there, attack.norm)
    share = jnp.minimum(near / jnp.where(near + far > 0, near + far, 1.0), attack.bias)
    ahead = state.point + attack.overshoot * here
    back = clean + attack.overshoot * there
    moved = jnp.clip((1.0 - per_row(share)) * ahead + per_row(share) * back, min=0.0, max=1.0)

    stored = towards(moved, x)
    after = at_steps(model, state.model_keys, 2 * state.calls + 2)
    logits = open_logits(after, forward(after, stored), state.labels, targeted=False)
    reached = succeeded(logits, state.labels, targeted=False)
    best = closer(state.best, stored, reached, size_of(stored.astype(jnp.float32) - clean, attack.norm))
    moved = jnp.where(per_row(reached), clean + attack.backward * (moved - clean), moved)
    state = state._replace(point=moved, best=best, steps=state.steps + 1, calls=state.calls + 1)
    ended = state.steps >= attack.steps
    run = state.run + ended.astype(jnp.int32)

    def next_runs() -> Images:
        return jnp.where(per_row(ended), _start(attack, state, run), state.point)

    point = lax.cond(jnp.any(ended), next_runs, lambda: state.point)
    return state._replace(run=run, point=point, steps=jnp.where(ended, 0, state.steps))


def _signed_step(point: Images, slope: Images, gap: jax.Array, norm: str) -> Images:
    """Return the smallest step in the box with <slope, d> = gap, for a gap of either sign."""
    side = jnp.where(gap < 0, -1.0, 1.0)
    return step_onto_plane(point, per_row(side) * slope, jnp.abs(gap), norm)


def _start(attack: FAB, state: _State, run: jax.Array) -> Images:
    """Return the starts of the runs with these numbers."""
    clean = state.x.astype(jnp.float32)
    if state.keys is None or attack.restarts == 1:
        return clean
    keys = jax.vmap(jax.random.fold_in)(state.keys, run)
    half = 0.5 * jnp.minimum(state.best.distance, state.radius)
    norm = "linf" if attack.norm == "linf" else "l2"  # a scaled L2 direction is also used for L1
    direction = at_radius(keys, jnp.full_like(clean, 0.5), 0.5, norm) - 0.5
    size = size_of(direction, attack.norm)
    away = direction * per_row(half / jnp.where(size > 0, size, 1.0))
    first = run < state.aims.shape[1]
    return jnp.where(per_row(first), clean, jnp.clip(clean + away, min=0.0, max=1.0))

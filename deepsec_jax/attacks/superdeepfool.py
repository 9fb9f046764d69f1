"""SuperDeepFool: DeepFool, then a projection that makes the change orthogonal to the decision boundary."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import free_part
from deepsec_jax.attacks.best_so_far import Closest, at_steps, closer, none_yet, per_row
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.geometry import at_least_float32, l2_norm, steepest, towards
from deepsec_jax.attacks.gradient import forward, pullbacks, value_and_gradient
from deepsec_jax.attacks.losses import max_margin, succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, integer, optional
from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.model_traits import classes_of
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static

LEAST_GAIN = 0.999
"""Ratio of a success's distance to the closest one before, above which a row stops."""


class SuperDeepFool(Struct):
    """Alternate DeepFool with projections onto the normal of the boundary, until a projection succeeds.

        x' = DeepFool step of x_i:   x_i + (1 + overshoot) |z_j - z_y| w_j / ||w_j||^2,   j the nearest class
        x_{i+1} = x'                           if x' is classified correctly,
                  clip(x + <x' - x, v> v)      otherwise,   v = grad margin(x') / ||grad margin(x')||

    At the closest point of the boundary the change is parallel to the boundary's normal; DeepFool does not
    ensure this.  The method is SDF(inf, 1) of the paper.  DeepFool's steps use the ``k`` likeliest wrong
    classes of the clean image.  Entries of w and v that would leave the box are left out; the authors' code
    clips, and its steps fall short on images with many zeros and ones.  A row stops when a projected point is
    misclassified, or when a success is not 0.1 % closer than the ones before (the box can keep projected
    points from success).  At last ``search_steps`` bisections move the closest success towards the clean
    image.  Returns it, or the clean image.  At most ``steps`` x (k + 1) gradients per example, and a forward
    per step and bisection.

    Attributes:
        overshoot: relative distance beyond the linearised boundary.
        steps: maximum number of DeepFool steps, static.
        k: number of wrong classes, static; at most K - 1.
        search_steps: number of bisections, static; may be 0.
        at_once: classes whose gradients are computed together, each with a gradient's memory, static; by
            default one on a CPU, all elsewhere.

    References:
        Abdollahpoor, Abdollahpour, Moosavi-Dezfooli, Frossard, "Revisiting DeepFool: generalization and
        improvement", arXiv:2303.12481.
    """

    overshoot: Scalar = 0.02
    steps: int = static(100, check=count)
    k: int = static(9, check=count)
    search_steps: int = static(10, check=integer(0))
    at_once: int | None = static(None, check=optional(count), only_memory=True)

    card: ClassVar[Card] = Card(
        name="SDF",
        title="SuperDeepFool: DeepFool with projections onto the normal of the boundary",
        reference="Abdollahpoor et al., arXiv:2303.12481",
        goal="untargeted",
        kind="minimum-norm",
    )

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del entries
        forwards = 1.0 + self.steps + self.search_steps
        return Cost(forwards, self.steps * (min(self.k, classes - 1) + 1.0), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        rows = x.shape[0]
        streams = split_keys(keys)
        zeros = jnp.zeros(rows, jnp.int32)
        clean = open_logits(model, at_steps(model, streams.model, zeros)(x), labels, targeted=False)
        wrong = jnp.where(jax.nn.one_hot(labels, clean.shape[-1], dtype=bool), -jnp.inf, clean)
        wrong = wrong.astype(jnp.float32)
        already = succeeded(clean, labels, targeted=False)
        state = _State(
            x=x, labels=labels, keys=streams.model,
            rivals=lax.top_k(wrong, min(self.k, classes_of(model, x) - 1))[1],
            point=x.astype(jnp.float32), best=closer(none_yet(x), x, already, jnp.zeros(rows)),
            ended=already, steps=zeros, asked=zeros + 1,
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            return ~state.ended & (state.steps < self.steps)

        def step(state: _State) -> _State:
            return rows_where(live(state), _stepped(self, model, state), state)

        last = while_live(step, live, state)
        best, searched = _bisected(self, model, last)
        steps = last.steps.astype(jnp.float32)
        return Counted(best.x, 1.0 + steps + searched, (state.rivals.shape[1] + 1) * steps)


class _State(NamedTuple):
    x: Images
    labels: Labels
    keys: Keys | None
    rivals: jax.Array  # int [B, k]: candidate classes
    point: Images  # float32
    best: Closest
    ended: jax.Array  # bool [B]
    steps: jax.Array  # int32 [B]
    asked: jax.Array  # int32 [B]: number of the next model call, for a randomised model


def _stepped(attack: SuperDeepFool, model: Classifier, state: _State) -> _State:
    """Return the state after a DeepFool step and, if it succeeds, a projection."""
    x, labels, clean = state.x, state.labels, state.x.astype(jnp.float32)

    def logits_at(call: int, point: Images) -> jax.Array:
        asked = at_steps(model, state.keys, state.asked + call)
        return open_logits(asked, asked(point.astype(x.dtype)), labels, targeted=False)

    point = at_least_float32(towards(state.point, x))
    classes = classes_of(model, x)
    rival = jax.nn.one_hot(state.rivals.T, classes, dtype=jnp.float32)  # [k, B, K]
    label = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    logits, normals = pullbacks(
        lambda point: logits_at(0, point), point, rival - label[None], at_once=attack.at_once
    )
    normals = jax.vmap(free_part, in_axes=(0, None))(normals, point.astype(jnp.float32))
    true = jnp.take_along_axis(logits, labels[:, None], axis=1)
    gaps = jnp.abs(jnp.take_along_axis(logits, state.rivals, axis=1) - true).T
    lengths = jax.vmap(l2_norm)(normals)
    # A class with zero gradient cannot be reached; its distance is not zero.
    reachable = (lengths > 0) & jnp.isfinite(gaps)
    distances = jnp.where(reachable, gaps / jnp.where(reachable, lengths, 1.0), jnp.inf)
    nearest = jnp.argmin(distances, axis=0)
    distance = jnp.min(distances, axis=0)
    stuck = ~jnp.isfinite(distance)
    normal = jnp.take_along_axis(normals, nearest[None, :, None, None, None], axis=0)[0]
    length = jnp.where(stuck, 0.0, (1.0 + attack.overshoot) * distance)
    moved = jnp.clip(state.point + per_row(length) * steepest(normal, "l2"), min=0.0, max=1.0)

    def margin(point: Images) -> tuple[jax.Array, jax.Array]:
        logits = logits_at(1, point)
        return max_margin(logits, labels), succeeded(logits, labels, targeted=False)

    stored = towards(moved, x)
    _, crossed, gradient = value_and_gradient(margin, at_least_float32(stored))
    change = stored.astype(jnp.float32) - clean
    size = l2_norm(change)
    best = closer(state.best, stored, crossed, size)
    settled = crossed & (size > LEAST_GAIN * state.best.distance)

    direction = steepest(free_part(gradient, clean), "l2")
    along = jnp.sum(change * direction, axis=(1, 2, 3))
    projected = jnp.clip(clean + per_row(along) * direction, min=0.0, max=1.0)
    stored = towards(projected, x)
    logits = open_logits(
        model, forward(at_steps(model, state.keys, state.asked + 2), stored), labels, targeted=False
    )
    normal_to_it = crossed & succeeded(logits, labels, targeted=False)
    return state._replace(
        point=jnp.where(per_row(crossed), projected, moved),
        best=closer(best, stored, normal_to_it, l2_norm(stored.astype(jnp.float32) - clean)),
        ended=normal_to_it | settled | stuck, steps=state.steps + 1, asked=state.asked + 3,
    )  # fmt: skip


_Halved = tuple[Closest, jax.Array, jax.Array]  # the closest success; ends of the segment, [B]


def _bisected(attack: SuperDeepFool, model: Classifier, state: _State) -> tuple[Closest, jax.Array]:
    """Return the closest success on the segment from the clean image, and the forwards of each row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    change = state.best.x.astype(jnp.float32) - clean
    searched = jnp.isfinite(state.best.distance) & (state.best.distance > 0)
    rows = x.shape[0]

    def halve(number: jax.Array, carry: _Halved) -> _Halved:
        best, low, high = carry
        middle = (low + high) / 2
        stored = towards(clean + per_row(middle) * change, x)
        asked = at_steps(model, state.keys, state.asked + number)
        logits = open_logits(asked, forward(asked, stored), state.labels, targeted=False)
        hit = searched & succeeded(logits, state.labels, targeted=False)
        best = closer(best, stored, hit, l2_norm(stored.astype(jnp.float32) - clean))
        return best, jnp.where(hit, low, middle), jnp.where(hit, middle, high)

    start = varying_alike((state.best, jnp.zeros(rows, jnp.float32), jnp.ones(rows, jnp.float32)))
    best = lax.fori_loop(0, attack.search_steps, halve, start)[0]
    return best, jnp.where(searched, float(attack.search_steps), 0.0)

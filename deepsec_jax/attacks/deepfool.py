"""DeepFool: iterated steps to the nearest boundary of the linearised model."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import at_step, split_keys
from deepsec_jax.attacks.best_so_far import at_steps, per_row
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.fields import norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, l2_norm, steepest, towards
from deepsec_jax.attacks.gradient import forward, pullbacks
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, optional
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, static

NUDGE = 1e-4
"""Added to the length of every step, so that a point on the boundary crosses it (the authors' value)."""


class DeepFool(Struct):
    """Step to the nearest wrong class of the linearised model until the image is misclassified.

        w_j = grad (z_j - z_y)(x_i),   j = argmin |z_j - z_y| / ||w_j||_q
        x_{i+1} = clip(x_i + (1 + overshoot) (|z_j - z_y| / ||w_j||_q + 0.0001) d_j, 0, 1)

    with q = 2 and d_j = w_j / ||w_j||_2, or, for L-inf, q = 1 and d_j = sign(w_j).  Every step starts inside
    the box.  The authors have no box, and foolbox clips the sum of all steps; then steps also correct what
    lies outside, which takes more of them, and the images are farther away.

    The gradients of the ``k`` likeliest wrong classes of the clean image come from one forward.  A masked
    class (-inf) is ignored.  A row stops at the first misclassified image.  If there is none after ``steps``
    steps, or if all gradients are zero, the clean image is returned.  At most ``steps`` x k gradients per
    example, and a forward per step.

    Attributes:
        overshoot: relative distance beyond the linearised boundary.
        steps: maximum number of steps, static.
        norm: "l2" or "linf", static.
        k: number of wrong classes, static; at most K - 1.
        at_once: classes whose gradients are computed together, each with a gradient's memory, static; by
            default one on a CPU, all elsewhere.

    References:
        Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural
        networks", CVPR 2016, arXiv:1511.04599.
    """

    overshoot: Scalar = 0.02
    steps: int = static(50, check=count)
    norm: Norm = static("l2", check=norm_of())
    k: int = static(9, check=count)
    at_once: int | None = static(None, check=optional(count), only_memory=True)

    card: ClassVar[Card] = Card(
        name="DF",
        title="DeepFool",
        reference="Moosavi-Dezfooli et al., CVPR 2016, arXiv:1511.04599",
        goal="untargeted",
        kind="minimum-norm",
        version=2,
    )

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del entries
        return Cost(1.0 + self.steps, float(self.steps * min(self.k, classes - 1)), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        streams = split_keys(keys)
        clean = open_logits(model, at_step(model, streams.model, 0)(x), labels, targeted=False)
        clean = clean.astype(jnp.float32)
        classes = clean.shape[-1]
        wrong = jnp.where(jax.nn.one_hot(labels, classes, dtype=bool), -jnp.inf, clean)
        count = min(self.k, classes - 1)
        state = _State(
            x=x,
            labels=labels,
            keys=streams.model,
            rivals=jax.lax.top_k(wrong, count)[1],
            x_adv=x,
            fooled=succeeded(clean, labels, targeted=False),
            stuck=jnp.zeros(x.shape[0], bool),
            steps=jnp.zeros(x.shape[0], jnp.int32),
        )

        def live(state: _State) -> jax.Array:
            return ~(state.fooled | state.stuck) & (state.steps < self.steps)

        def step(state: _State) -> _State:
            return rows_where(live(state), _stepped(self, model, state), state)

        last = while_live(step, live, state)
        steps = last.steps.astype(jnp.float32)
        found = jnp.where(per_row(last.fooled), last.x_adv, x)
        return Counted(found, 1.0 + steps, count * steps)


class _State(NamedTuple):
    x: Images
    labels: Labels
    keys: Keys | None
    rivals: jax.Array  # int [B, k]: the candidate classes
    x_adv: Images  # in the dtype of x
    fooled: jax.Array
    stuck: jax.Array
    steps: jax.Array


def _stepped(attack: DeepFool, model: Classifier, state: _State) -> _State:
    def logits_of(point: Images) -> jax.Array:
        logits = at_steps(model, state.keys, 2 * state.steps + 1)(point.astype(state.x.dtype))
        return open_logits(model, logits, state.labels, targeted=False)

    point = at_least_float32(state.x_adv)
    classes = jax.eval_shape(logits_of, point).shape[-1]
    rival = jax.nn.one_hot(state.rivals.T, classes, dtype=jnp.float32)  # [k, B, K]
    label = jax.nn.one_hot(state.labels, classes, dtype=jnp.float32)
    logits, normals = pullbacks(logits_of, point, rival - label[None], at_once=attack.at_once)
    normals = jnp.where(jnp.isfinite(normals), normals, 0.0)
    # Selected, not multiplied: 0 times the -inf of a masked class is NaN.
    true = jnp.take_along_axis(logits, state.labels[:, None], axis=1)
    gaps = jnp.abs(jnp.take_along_axis(logits, state.rivals, axis=1) - true).T
    if attack.norm == "linf":
        lengths = jnp.sum(jnp.abs(normals), axis=(2, 3, 4))
    else:
        lengths = jax.vmap(l2_norm)(normals)
    # A class with zero gradient cannot be reached; its distance is not zero.
    reachable = (lengths > 0) & jnp.isfinite(gaps)
    distances = jnp.where(reachable, gaps / jnp.where(reachable, lengths, 1.0), jnp.inf)
    nearest = jnp.argmin(distances, axis=0)
    distance = jnp.min(distances, axis=0)
    stuck = ~jnp.isfinite(distance)
    normal = jnp.take_along_axis(normals, nearest[None, :, None, None, None], axis=0)[0]
    length = jnp.where(stuck, 0.0, (1.0 + attack.overshoot) * (distance + NUDGE))
    moved = point.astype(jnp.float32) + per_row(length) * steepest(normal, attack.norm)
    x_adv = towards(jnp.clip(moved, min=0.0, max=1.0), state.x)
    after = forward(at_steps(model, state.keys, 2 * state.steps + 2), x_adv)
    after = open_logits(model, after, state.labels, targeted=False)
    return state._replace(
        x_adv=x_adv,
        fooled=succeeded(after, state.labels, targeted=False),
        stuck=stuck,
        steps=state.steps + 1,
    )

"""Basin hopping: change a random part of the best image so far, climb again, keep the better of the two."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import Best, better, split_keys
from deepsec_jax.attacks.best_so_far import at_steps, cosine, per_row
from deepsec_jax.attacks.call import attack_call, label_targets
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted, cost
from deepsec_jax.attacks.fields import an_attack, norm_of
from deepsec_jax.attacks.geometry import Norm, at_least_float32, l2_norm, project, steepest, stored_in_ball
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.layer_losses import of_logits
from deepsec_jax.attacks.losses import Loss, max_margin, ranked, succeeded
from deepsec_jax.attacks.parts import at_radius
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.attacks.square import first_image
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count
from deepsec_jax.protocols import Attack, Classifier, Images, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static

SHARES = (0.01, 0.5)
"""Smallest and largest share of the pixels that a kick of single pixels changes."""

SHORTEST = 1.0 / 15.0
"""Smallest first step size of a climb, as a share of eps; the largest is eps."""


class BasinHopping(Struct):
    """Iterated local search: a random kick, a short ascent, and the better of both local maxima.

        p_0 = x_adv, but a random change of the ball in a random window or in random pixels
        p_{i+1} = project(p_i + s_i step(grad loss(p_i))),   s_i from s_0 to 0 as a cosine
        x_adv <- best p_i  if its loss is not lower than that of x_adv

    Random restarts search the whole ball anew; a kick keeps most of a good image.  On networks where
    AutoAttack finds nothing, this finds adversarial images at the same number of gradients
    (docs/measured-strength.md).  The window has a side of a ninth to a half of the image; pixels are drawn
    with a probability of 1 to 50 %; s_0 is from eps / 15 to eps.  Both are uniform in their logarithm.

    The first climb is from the image of ``start``, or from a random point of the sphere.  A row ends with its
    first success; without one the image with the highest loss is returned.  ``hops`` x ``steps`` gradients.

    Attributes:
        eps: radius of the ball, in units of the [0, 1] pixel range; a number, or one per image, [B].
        norm: "linf" or "l2", static.
        hops: number of climbs, including the first, static.
        steps: gradients of a climb, static.
        start: attack with the same goal that returns the first image; its calls are counted.
        targeted: ``labels`` are targets to reach, static.
        loss: loss to maximise, or its name, static.

    References:
        Wales, Doye, "Global Optimization by Basin-Hopping", J. Phys. Chem. A 101, 1997,
        arXiv:cond-mat/9803344, at temperature 0.
    """

    eps: Scalar = 0.3
    norm: Norm = static("linf", check=norm_of())
    hops: int = static(100, check=count)
    steps: int = static(20, check=count)
    start: Attack | None = field(None, check=an_attack)
    targeted: bool = static(False)
    loss: Loss | str = static(max_margin, check=of_logits)

    needs_key: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        name="BH",
        title="Basin hopping: random kicks and short ascents from the best image so far",
        reference="Wales, Doye, 1997, arXiv:cond-mat/9803344",
        goal="untargeted",
        kind="budget",
    )
    targets = label_targets

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        first = cost(self.start, classes=classes, entries=entries) or Cost(0.0, 0.0)
        return Cost(first.forwards, first.gradients + float(self.hops * self.steps), exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        rows = x.shape[0]
        streams = split_keys(keys)
        attack_keys: Any = streams.attack  # attack_call ensures that there are keys
        eps = jnp.broadcast_to(jnp.asarray(self.eps, jnp.float32), (rows, 1, 1, 1))
        clean = x.astype(jnp.float32)
        begun = first_image(self, model, x, labels, keys)
        if begun is None:
            nothing = jnp.zeros(rows, jnp.float32)
            begun = Counted(at_radius(attack_keys, clean, eps, self.norm), nothing, nothing)
        lowest = jnp.full(rows, -jnp.inf, jnp.float32)
        state = _State(
            x=x, labels=labels, eps=eps, keys=attack_keys, model_keys=streams.model,
            taken=jnp.zeros(rows, jnp.int32), best=Best(x, jnp.zeros(rows, bool), lowest),
            kept=clean, kept_loss=lowest, point=begun.x.astype(jnp.float32), size=eps.reshape(rows),
            top=clean, top_loss=lowest,
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            return (state.taken < self.hops * self.steps) & ~state.best.success

        step = partial(_stepped, self, model)
        last = while_live(lambda state: rows_where(live(state), step(state), state), live, state)
        return Counted(last.best.x, begun.forwards, begun.gradients + last.taken.astype(jnp.float32))


class _State(NamedTuple):
    x: Images
    labels: Labels
    eps: jax.Array  # float32 [B, 1, 1, 1]
    keys: Keys
    model_keys: Keys | None
    taken: jax.Array  # int32 [B], gradients so far
    best: Best  # of all climbs, as stored
    kept: Images  # float32: the image that is kicked
    kept_loss: jax.Array  # float32 [B]
    point: Images  # float32: point of the next gradient
    size: jax.Array  # float32 [B]: first step size of this climb
    top: Images  # best point of this climb
    top_loss: jax.Array


def _stepped(attack: BasinHopping, model: Classifier, state: _State) -> _State:
    """Return the state after one more gradient of every row."""
    x, labels, clean = state.x, state.labels, state.x.astype(jnp.float32)
    sign = -1.0 if attack.targeted else 1.0
    asked = at_steps(model, state.model_keys, state.taken)

    def objective(point: Images) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = open_logits(asked, asked(point.astype(x.dtype)), labels, targeted=attack.targeted)
        loss = (sign * of_logits(attack.loss)(logits, labels)).astype(jnp.float32)
        return loss, (succeeded(logits, labels, targeted=attack.targeted), ranked(loss, logits))

    stored = stored_in_ball(state.point, x, state.eps, attack.norm)
    _, (success, loss), gradient = value_and_gradient(objective, at_least_float32(stored))
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    takes = loss > state.top_loss  # never a NaN
    top = jnp.where(per_row(takes), state.point, state.top)
    top_loss = jnp.where(takes, loss, state.top_loss)

    in_climb = state.taken % attack.steps
    length = state.size * cosine(in_climb, attack.steps)
    ahead = project(
        state.point + per_row(length) * steepest(gradient, attack.norm), clean, state.eps, attack.norm
    )
    climbing = state._replace(
        taken=state.taken + 1, best=better(state.best, stored, success, loss),
        point=ahead, top=top, top_loss=top_loss,
    )  # fmt: skip
    return rows_where(in_climb == attack.steps - 1, _kicked(attack, climbing), climbing)


def _kicked(attack: BasinHopping, state: _State) -> _State:
    """Return the state before the first gradient of the next climb."""
    takes = state.top_loss >= state.kept_loss
    kept = jnp.where(per_row(takes), state.top, state.kept)
    clean = state.x.astype(jnp.float32)
    keys = jax.vmap(lambda key, taken: jax.random.split(jax.random.fold_in(key, taken), 3))(
        state.keys, state.taken
    )
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (5,), jnp.float32))(keys[:, 0])
    chosen = jax.vmap(partial(_chosen, (state.x.shape[1], state.x.shape[2])))(keys[:, 1], drawn)
    change = jax.vmap(lambda key: jax.random.normal(key, state.x.shape[1:], jnp.float32))(keys[:, 2])
    if attack.norm == "linf":
        change = state.eps * jnp.sign(change)
    else:  # as long in the chosen pixels as the ball allows beside the others
        rest = l2_norm(jnp.where(chosen, 0.0, kept - clean))
        room = jnp.sqrt(jnp.maximum(state.eps.reshape(rest.shape) ** 2 - rest**2, 0.0))
        change = per_row(room) * steepest(jnp.where(chosen, change, 0.0), "l2")
    point = project(jnp.where(chosen, clean + change, kept), clean, state.eps, attack.norm)
    return state._replace(
        kept=kept, kept_loss=jnp.where(takes, state.top_loss, state.kept_loss), point=point, top=point,
        top_loss=jnp.full_like(state.top_loss, -jnp.inf),
        size=state.eps.reshape(takes.shape) * SHORTEST ** drawn[:, 4],
    )  # fmt: skip


def _chosen(shape: tuple[int, ...], key: jax.Array, drawn: jax.Array) -> jax.Array:
    """Return the pixels of a kick, bool [H, W, 1]: a window or single ones.

    Args:
        shape: height and width, static.
        key: for single pixels.
        drawn: uniform in [0, 1), float32 [5]: window or pixels, side, top, left; the last is not used.
    """
    height, width = shape
    shorter = min(height, width)
    least, most = max(1, shorter // 9), max(1, shorter // 2)
    side = least + jnp.floor(drawn[1] * (most - least + 1))
    top = jnp.floor(drawn[2] * (height - side + 1.0))
    left = jnp.floor(drawn[3] * (width - side + 1.0))
    row = jnp.arange(height, dtype=jnp.float32)[:, None, None]
    column = jnp.arange(width, dtype=jnp.float32)[None, :, None]
    window = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    share = SHARES[0] * (SHARES[1] / SHARES[0]) ** drawn[1]
    pixels = jax.random.uniform(key, (height, width, 1), jnp.float32) < share
    return jnp.where(drawn[0] < 0.5, window, pixels)

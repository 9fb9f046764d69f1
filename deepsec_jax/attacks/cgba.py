"""CGBA: the smallest change in L2 from a model's decisions only, along half circles to the clean image."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.best_so_far import Closest, at_steps, closer, none_yet, per_row
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.geometry import l2_norm, steepest, towards
from deepsec_jax.attacks.gradient import forward
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, not_negative, positive
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static

CLEAN, START, LINE, NORMAL, CIRCLE = range(5)
"""Purpose of a query: the clean image, a first success, the line to the clean image, normal, half circle."""

GROWTH = 0.02
"""Increase of the noise of the start per query (the authors' value)."""


class CGBA(Struct):
    """From a point of the decision boundary, follow the half circle towards the clean image, and repeat.

        eta = mean of (d_i - mean d) e_i,   d_i = +-1 by misclassification of x_t + e_i,
              e_i = clip(x_t + sigma u_i) - x_t,   u_i ~ N(0, I)
        x(phi) = x + R cos(phi) (cos(phi) v + sin(phi) w),   R v = x_t - x,   w = eta orthogonal to v
        x_{t+1} = x(phi) at the largest phi of a bisection that is misclassified

    Every point of the half circle with diameter from x to x_t is closer to x than x_t.  The first point is a
    bisection of the line from the clean image to a noisy one; the noise increases until it is misclassified.
    The t-th normal eta takes ``first_queries`` sqrt(t) queries, with noise of the lowest frequencies if
    ``reduction`` is above 1.  The attack uses only predicted classes, so it is a control for misleading
    gradients.

    Subtracting the mean decision (as HopSkipJump does) and taking e_i after the clip to the box are
    differences from the authors' code: images have many pixels at 0 or 1, where the noise is one-sided.

    Returns the closest misclassified image of all queries, or the clean image.  At most ``queries`` forwards,
    including that of the clean image.

    Attributes:
        queries: maximum number of forwards, static.
        first_queries: queries for the first normal, static.
        sigma: standard deviation of the noise around a boundary point.
        tolerance: of the bisections, in L2.
        reduction: number of times that the noise has fewer rows and columns of frequencies, static.
        enough: an image is finished when its change is at most this; 0 spends all queries.

    References:
        Reza, Rahmati, Wu, Dai, "CGBA: Curvature-aware Geometric Black-box Attack", ICCV 2023,
        arXiv:2308.03163.
    """

    queries: int = static(10_000, check=count)
    first_queries: int = static(30, check=count)
    sigma: Scalar = field(2e-4, check=positive)
    tolerance: Scalar = field(1e-4, check=positive)
    reduction: int = static(1, check=count)
    enough: Scalar = field(0.0, check=not_negative)

    needs_key: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False

    card: ClassVar[Card] = Card(
        name="CGBA",
        title="Curvature-aware geometric attack by decisions alone",
        reference="Reza et al., ICCV 2023, arXiv:2308.03163",
        goal="untargeted",
        kind="minimum-norm",
    )

    def targets(self, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None) -> None:
        """Return None: any wrong class counts."""
        del model, x, labels, key

    def cost(self, classes: int, entries: int) -> Cost:
        """Return the model calls per image; see :class:`~deepsec_jax.attacks.cost.Cost`."""
        del classes, entries
        return Cost(float(self.queries), 0.0, exact=False)

    @attack_call
    def __call__(self, model: Classifier, x: Images, labels: Labels, keys: Keys | None) -> Counted:
        rows = x.shape[0]
        streams = split_keys(keys)
        attack_keys: Any = streams.attack  # attack_call ensures that there are keys
        zeros, nothing = jnp.zeros(rows, jnp.int32), jnp.zeros(x.shape, jnp.float32)
        none = jnp.zeros(rows, jnp.float32)
        state = _State(
            x=x, labels=labels, keys=attack_keys, model_keys=streams.model, asked=zeros, best=none_yet(x),
            phase=zeros + CLEAN, turn=zeros, taken=zeros, edge=nothing, normal=nothing, low=none, high=none,
            narrowing=jnp.zeros(rows, bool), noise=nothing, decided=nothing, wrong=none,
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            return (state.asked < self.queries) & (state.best.distance > self.enough)

        step = partial(_asked, self, model)
        last = while_live(lambda state: rows_where(live(state), step(state), state), live, state)
        return Counted(last.best.x, last.asked.astype(jnp.float32), jnp.zeros(rows, jnp.float32))


class _State(NamedTuple):
    x: Images
    labels: Labels
    keys: Any  # one per row; never None, see needs_key
    model_keys: Keys | None
    asked: jax.Array  # int32 [B], queries so far
    best: Closest
    phase: jax.Array  # int32 [B]: purpose of the next query
    turn: jax.Array  # int32 [B]: number of half circles so far
    taken: jax.Array  # int32 [B]: queries of this normal so far
    edge: Images  # float32: change of the misclassified end of the line, or of the boundary point
    normal: Images  # float32: unit direction w
    low: jax.Array  # float32 [B]: share of the line that is correct; angle that is misclassified
    high: jax.Array  # share that is misclassified; angle that is correct
    narrowing: jax.Array  # bool [B]: the half circle's angle is bracketed
    noise: Images  # float32: sum of e_i / sigma
    decided: Images  # float32: sum of d_i e_i / sigma
    wrong: jax.Array  # float32 [B]: sum of d_i


def _asked(attack: CGBA, model: Classifier, state: _State) -> _State:
    """Return the state after one more query of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    draws = jax.vmap(jax.random.fold_in)(state.keys, state.asked)
    trial, drawn = _trial(attack, draws, clean, state)
    stored = towards(trial, x)
    asked = at_steps(model, state.model_keys, state.asked)
    logits = open_logits(asked, forward(asked, stored), state.labels, targeted=False)
    reached = succeeded(logits, state.labels, targeted=False)
    change = stored.astype(jnp.float32) - clean
    best = closer(state.best, stored, reached, l2_norm(change))
    counted = state._replace(asked=state.asked + 1, best=best)
    after = _after_normal(attack, counted, drawn, reached)
    for phase, then in (
        (CLEAN, counted._replace(phase=counted.phase + 1)),
        (START, _after_start(counted, change, reached)),
        (LINE, _after_line(attack, counted, reached)),
        (CIRCLE, _after_circle(attack, counted, clean, reached)),
    ):
        after = rows_where(state.phase == phase, then, after)
    return after


def _trial(attack: CGBA, draws: Keys, clean: Images, state: _State) -> tuple[Images, Images]:
    """Return the image of the next query, float32, and its noise e_i / sigma, for a normal's query."""
    shape = clean.shape[1:]
    plain = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(draws)
    smooth = plain if attack.reduction == 1 else low_frequencies(plain, attack.reduction)
    amount = GROWTH * state.asked.astype(jnp.float32)
    boundary = clean + state.edge
    around = jnp.clip(boundary + attack.sigma * smooth, min=0.0, max=1.0)
    middle = (state.low + state.high) / 2
    trial = clean
    for phase, image in (
        (START, clean + per_row(amount) * plain),
        (LINE, clean + per_row(middle) * state.edge),
        (NORMAL, around),
        (CIRCLE, clean + _on_circle(state, _angle(state))),
    ):
        trial = jnp.where(per_row(state.phase == phase), image, trial)
    return jnp.clip(trial, min=0.0, max=1.0), (around - boundary) / attack.sigma


def _after_start(state: _State, change: Images, reached: jax.Array) -> _State:
    """Return the state after noise around the clean image: a line to bisect, or the next noise."""
    return state._replace(
        phase=jnp.where(reached, LINE, START),
        edge=jnp.where(per_row(reached), change, state.edge),
        low=jnp.zeros_like(state.low), high=jnp.ones_like(state.high),
    )  # fmt: skip


def _after_line(attack: CGBA, state: _State, reached: jax.Array) -> _State:
    """Return the state after a point of the line; the last misclassified one is on the boundary."""
    middle = (state.low + state.high) / 2
    low, high = jnp.where(reached, state.low, middle), jnp.where(reached, middle, state.high)
    ends = (high - low) * l2_norm(state.edge) <= attack.tolerance
    ended = _at_boundary(state, per_row(high) * state.edge)
    return rows_where(ends, ended, state._replace(low=low, high=high))


def _after_normal(attack: CGBA, state: _State, drawn: Images, reached: jax.Array) -> _State:
    """Return the state after noise at the boundary point; after enough of it, the normal and the circle."""
    decision = jnp.where(reached, 1.0, -1.0)
    noise, wrong = state.noise + drawn, state.wrong + decision
    decided = state.decided + per_row(decision) * drawn
    taken = state.taken + 1
    number = taken.astype(jnp.float32)
    # 30, 42, 51, ... queries.
    needed = jnp.floor(attack.first_queries * jnp.sqrt(state.turn.astype(jnp.float32) + 1.0))
    mean = jnp.where(jnp.abs(wrong) < number, wrong / number, 0.0)  # equal decisions still tell a side
    eta = (decided - per_row(mean) * noise) / per_row(number)
    view = steepest(state.edge, "l2")
    across = eta - per_row(jnp.sum(eta * view, axis=(1, 2, 3))) * view
    ended = state._replace(
        phase=jnp.full_like(state.phase, CIRCLE), turn=state.turn + 1, normal=steepest(across, "l2"),
        low=jnp.zeros_like(state.low), high=jnp.full_like(state.high, jnp.pi / 2),
        narrowing=jnp.zeros_like(state.narrowing),
    )  # fmt: skip
    goes_on = state._replace(taken=taken, noise=noise, decided=decided, wrong=wrong)
    return rows_where(number >= needed, ended, goes_on)


def _after_circle(attack: CGBA, state: _State, clean: Images, reached: jax.Array) -> _State:
    """Return the state after a point of the half circle; the last misclassified one is on the boundary."""
    angle = _angle(state)
    low, high = jnp.where(reached, angle, state.low), jnp.where(reached, state.high, angle)
    ends = (high - low) * l2_norm(state.edge) <= attack.tolerance
    nearer = jnp.clip(clean + _on_circle(state, low), min=0.0, max=1.0) - clean
    goes_on = state._replace(low=low, high=high, narrowing=state.narrowing | ~reached)
    return rows_where(ends, _at_boundary(state, nearer), goes_on)


def _angle(state: _State) -> jax.Array:
    """Return the angle of the next query: 45, 67.5, 78.75, ... degrees until one is correct, then between."""
    return (state.low + jnp.where(state.narrowing, state.high, jnp.pi / 2)) / 2


def _on_circle(state: _State, angle: jax.Array) -> Images:
    """Return the change at an angle of the half circle; 0 is the boundary point, pi/2 the clean image."""
    along, across = jnp.cos(angle) ** 2, jnp.cos(angle) * jnp.sin(angle)
    return per_row(along) * state.edge + per_row(across * l2_norm(state.edge)) * state.normal


def _at_boundary(state: _State, edge: Images) -> _State:
    """Return the state before the first query of the next normal."""
    nothing = jnp.zeros_like(state.noise)
    return state._replace(
        phase=jnp.full_like(state.phase, NORMAL), edge=edge, taken=jnp.zeros_like(state.taken),
        noise=nothing, decided=nothing, wrong=jnp.zeros_like(state.wrong),
    )  # fmt: skip


def low_frequencies(noise: Images, reduction: int) -> Images:
    """Return noise whose rows and columns have the lowest 1/reduction of the cosine frequencies.

    Args:
        noise: standard normal, float32 [B, H, W, C].
        reduction: 1 or more, static.

    The part of the noise with these frequencies of the orthonormal discrete cosine transform.
    """
    for axis in (1, 2):
        basis = jnp.asarray(_cosines(noise.shape[axis], reduction))
        noise = jnp.moveaxis(jnp.tensordot(noise, basis, axes=(axis, 0)), -1, axis)
    return noise


def _cosines(size: int, reduction: int) -> np.ndarray:
    """Return the projection onto the lowest frequencies, float32 [size, size]."""
    kept = -(-size // reduction)
    frequency, place = np.arange(kept)[:, None], np.arange(size)[None] + 0.5
    rows = np.cos(np.pi * frequency * place / size) * np.sqrt(2.0 / size)
    rows[0] /= np.sqrt(2.0)
    return np.asarray(rows.T @ rows, np.float32)

"""RayS: the smallest change in L-inf from a model's decisions only, along rays of signs."""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from deepsec_jax.attacks.ascent import split_keys
from deepsec_jax.attacks.balls import size_of
from deepsec_jax.attacks.best_so_far import Closest, at_steps, closer, none_yet, per_row
from deepsec_jax.attacks.call import attack_call
from deepsec_jax.attacks.compaction import rows_where, while_live
from deepsec_jax.attacks.cost import Cost, Counted
from deepsec_jax.attacks.geometry import towards
from deepsec_jax.attacks.gradient import forward
from deepsec_jax.attacks.losses import succeeded
from deepsec_jax.attacks.rejection import open_logits
from deepsec_jax.catalog import Card
from deepsec_jax.field_checks import count, not_negative, positive
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Scalar
from deepsec_jax.pytree import Struct, field, static


class RayS(Struct):
    """Flip the signs of one block at a time; keep the flip if its ray meets the decision boundary earlier.

        x(r, s) = clip(x + r s),   s = +-1 per pixel and channel
        s' = s with one block flipped;  if x(r, s') is misclassified:  r <- smallest r' by bisection,  s <- s'

    The blocks are the whole image, then halves, quarters, and so on.  Most flips cost one query.  The attack
    uses only predicted classes, so it is a control for misleading gradients: images that only this attack
    fools were missed by a white-box attack.

    Returns the closest misclassified image of all queries, or the clean image.  At most ``queries`` forwards,
    including that of the clean image.

    A ray is followed only if the corner of the box at its end is misclassified.  A model that rejects such
    images needs another attack.

    Attributes:
        queries: maximum number of forwards, static.
        tolerance: of the bisection, in units of the [0, 1] pixel range.
        enough: an image is finished when its change is at most this; 0 spends all queries.

    References:
        Chen, Gu, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", KDD 2020,
        arXiv:2006.12792.
    """

    queries: int = static(10_000, check=count)
    tolerance: Scalar = field(1e-3, check=positive)
    enough: Scalar = field(0.0, check=not_negative)

    uses_gradients: ClassVar[bool] = False

    card: ClassVar[Card] = Card(
        name="RayS",
        title="Ray searching by decisions alone",
        reference="Chen, Gu, KDD 2020, arXiv:2006.12792",
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
        zeros = jnp.zeros(rows, jnp.int32)
        state = _State(
            x=x, labels=labels, model_keys=split_keys(keys).model, asked=zeros, best=none_yet(x),
            signs=jnp.ones(x.shape, jnp.float32), radius=jnp.ones(rows, jnp.float32),
            met=jnp.zeros(rows, bool), level=zeros - 1, block=zeros,
            low=jnp.zeros(rows, jnp.float32), high=jnp.ones(rows, jnp.float32),
            bisecting=jnp.zeros(rows, bool),
        )  # fmt: skip

        def live(state: _State) -> jax.Array:
            return (state.asked < self.queries) & (state.best.distance > self.enough)

        step = partial(_asked, self, model)
        last = while_live(lambda state: rows_where(live(state), step(state), state), live, state)
        return Counted(last.best.x, last.asked.astype(jnp.float32), jnp.zeros(rows, jnp.float32))


class _State(NamedTuple):
    x: Images
    labels: Labels
    model_keys: Keys | None
    asked: jax.Array  # int32 [B], queries so far; the first is the clean image
    best: Closest
    signs: Images  # float32, of the best ray
    radius: jax.Array  # float32 [B], its distance to the boundary; 1, the whole box, before any success
    met: jax.Array  # bool [B], whether a ray has reached it
    level: jax.Array  # int32 [B], 2^level blocks; -1 tries the first ray unchanged
    block: jax.Array  # int32 [B]
    low: jax.Array  # float32 [B], of the bisected ray: correct here
    high: jax.Array  # and misclassified here
    bisecting: jax.Array  # bool [B]


def _asked(attack: RayS, model: Classifier, state: _State) -> _State:
    """Return the state after one more query of every row."""
    x, clean = state.x, state.x.astype(jnp.float32)
    first = state.asked == 0
    flipped, last_block = _flipped(state)
    trial = jnp.where(state.bisecting, (state.low + state.high) / 2, state.radius)
    trial = jnp.where(first, 0.0, trial)
    stored = towards(jnp.clip(clean + per_row(trial) * flipped, min=0.0, max=1.0), x)
    asked = at_steps(model, state.model_keys, state.asked)
    logits = open_logits(asked, forward(asked, stored), state.labels, targeted=False)
    reached = succeeded(logits, state.labels, targeted=False)
    best = closer(state.best, stored, reached, size_of(stored.astype(jnp.float32) - clean, "linf"))

    # A ray that is misclassified at the best radius is bisected, any other is dropped.
    low = jnp.where(state.bisecting, jnp.where(reached, state.low, trial), 0.0)
    high = jnp.where(state.bisecting & ~reached, state.high, trial)
    narrow = high - low <= attack.tolerance
    goes_on = (state.bisecting | reached) & ~narrow
    takes = (state.bisecting | reached) & narrow
    ends = ~goes_on
    level = jnp.where(ends & last_block, state.level + 1, state.level)
    # Single pixels are the finest level; it is repeated.
    finest = (x[0].size - 1).bit_length()
    after = state._replace(
        asked=state.asked + 1, best=best,
        signs=jnp.where(per_row(takes), flipped, state.signs),
        radius=jnp.where(takes, high, state.radius), met=state.met | takes,
        level=jnp.minimum(level, finest),
        block=jnp.where(ends, jnp.where(last_block, 0, state.block + 1), state.block),
        low=low, high=high, bisecting=goes_on,
    )  # fmt: skip
    at_first = state._replace(asked=state.asked + 1, best=best)
    return rows_where(first, at_first, after)


def _flipped(state: _State) -> tuple[Images, jax.Array]:
    """Return the signs with the row's block flipped, and whether it is the level's last one, bool [B]."""
    size = state.x[0].size
    blocks = jnp.left_shift(1, jnp.maximum(state.level, 0))
    length = -(-size // blocks)
    start = state.block * length
    index = jnp.arange(size)[None]
    inside = (index >= start[:, None]) & (index < (start + length)[:, None]) & (state.level >= 0)[:, None]
    flips = jnp.where(inside.reshape(state.x.shape), -1.0, 1.0)
    return state.signs * flips, (start + length >= size) | (state.level < 0)

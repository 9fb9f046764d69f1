"""The pair of features that JSMA changes next: exact, without a map over all pairs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.loop_carries import varying_alike

CAPACITY = 64
"""Maximum number of candidates for pairing; random Jacobians of 3072 entries have about 20."""


class Pair(NamedTuple):
    """Two features of each row; ``found`` is False if no pair is admissible."""

    first: jax.Array  # int32 [B], the smaller index
    second: jax.Array  # int32 [B]
    found: jax.Array  # bool [B]


def top_two(gain: jax.Array, allowed: jax.Array) -> Pair:
    """Return the two allowed features with the largest gain, admissible if their gains sum to more than 0.

    Args:
        gain: float32 [B, n].
        allowed: bool [B, n].
    """
    values, index = lax.top_k(jnp.where(allowed, gain, -jnp.inf), 2)
    found = jnp.isfinite(values[:, 1]) & (values[:, 0] + values[:, 1] > 0)
    return Pair(jnp.min(index, axis=1), jnp.max(index, axis=1), found)


def best_pair(gain: jax.Array, loss: jax.Array, allowed: jax.Array) -> Pair:
    """Return the pair p < q that maximises (gain_p + gain_q) (loss_p + loss_q), both sums above 0.

    ``gain`` is the increase of the target and ``loss`` the decrease of the other classes.  A feature that two
    others dominate in both coordinates is in no best pair: one of the two is not its partner, and replacing
    the feature by it would not decrease the product.  A sort by gain and the two largest losses so far find
    the remaining candidates.  If there are more than :data:`CAPACITY`, all pairs are evaluated, one feature
    at a time. In a tie the lowest indices win.

    Args:
        gain: float32 [B, n].
        loss: float32 [B, n].
        allowed: bool [B, n].
    """
    features = gain.shape[1]
    if features <= CAPACITY:
        index = jnp.broadcast_to(jnp.arange(features), gain.shape)
        return _among(index, gain, loss, allowed)
    kept = undominated(gain, loss, allowed)
    index = jnp.sort(jnp.where(kept, jnp.arange(features)[None], features), axis=1)[:, :CAPACITY]
    few = jnp.all(jnp.sum(kept, axis=1) <= CAPACITY)
    pair: Pair = lax.cond(
        few,
        lambda: _among(jnp.minimum(index, features - 1), gain, loss, allowed, real=index < features),
        lambda: _of_all(gain, loss, allowed),
    )
    return pair


def undominated(gain: jax.Array, loss: jax.Array, allowed: jax.Array) -> jax.Array:
    """Return the allowed features that at most one other allowed one dominates, bool [B, n].

    Among equal features the one with the lower index dominates.
    """
    features = gain.shape[1]
    gain, loss = (jnp.where(allowed, part, -jnp.inf) for part in (gain, loss))
    index = jnp.broadcast_to(jnp.arange(features), gain.shape)
    _, falling_loss, order = lax.sort((-gain, -loss, index), num_keys=2, is_stable=True)
    losses = -falling_loss
    first, second = lax.associative_scan(_two_largest, (losses, jnp.full_like(losses, -jnp.inf)), axis=1)
    # The second largest of the previous ones: shifted by one.
    before = jnp.concatenate([jnp.full_like(second[:, :1], -jnp.inf), second[:, :-1]], axis=1)
    del first
    keeps = losses > before
    rows = jnp.arange(gain.shape[0])[:, None]
    return jnp.zeros_like(allowed).at[rows, order].set(keeps) & allowed


def _two_largest(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    first = jnp.maximum(left[0], right[0])
    second = jnp.maximum(jnp.minimum(left[0], right[0]), jnp.maximum(left[1], right[1]))
    return first, second


def _score(
    gain_p: jax.Array, gain_q: jax.Array, loss_p: jax.Array, loss_q: jax.Array, valid: jax.Array
) -> jax.Array:
    gain, loss = gain_p + gain_q, loss_p + loss_q
    return jnp.where(valid & (gain > 0) & (loss > 0), gain * loss, -jnp.inf)


def _among(
    index: jax.Array,
    gain: jax.Array,
    loss: jax.Array,
    allowed: jax.Array,
    *,
    real: jax.Array | None = None,
) -> Pair:
    """Return the best pair among the features ``index`` [B, m], which are in increasing order."""
    gain, loss, valid = (jnp.take_along_axis(part, index, axis=1) for part in (gain, loss, allowed))
    valid = valid if real is None else valid & real
    count = index.shape[1]
    ordered = jnp.arange(count)[:, None] < jnp.arange(count)[None, :]
    score = _score(
        gain[:, :, None], gain[:, None, :], loss[:, :, None], loss[:, None, :],
        valid[:, :, None] & valid[:, None, :] & ordered[None],
    ).reshape(index.shape[0], -1)  # fmt: skip
    at = jnp.argmax(score, axis=1)
    found = jnp.isfinite(jnp.max(score, axis=1))
    first = jnp.take_along_axis(index, (at // count)[:, None], axis=1)[:, 0]
    second = jnp.take_along_axis(index, (at % count)[:, None], axis=1)[:, 0]
    return Pair(first, second, found)


def _of_all(gain: jax.Array, loss: jax.Array, allowed: jax.Array) -> Pair:
    """Return the best of all pairs in O(n) memory: for each p the best q after it."""
    rows, features = gain.shape
    later = jnp.arange(features)

    class Found(NamedTuple):
        score: jax.Array
        first: jax.Array
        second: jax.Array

    def body(p: jax.Array, best: Found) -> Found:
        valid = allowed & allowed[:, p][:, None] & (later > p)[None]
        score = _score(gain[:, p][:, None], gain, loss[:, p][:, None], loss, valid)
        q, value = jnp.argmax(score, axis=1), jnp.max(score, axis=1)
        takes = value > best.score
        return Found(
            jnp.where(takes, value, best.score),
            jnp.where(takes, p, best.first),
            jnp.where(takes, q, best.second),
        )

    nothing = jnp.zeros(rows, later.dtype)
    best = lax.fori_loop(
        0, features, body, varying_alike(Found(jnp.full(rows, -jnp.inf), nothing, nothing), gain)
    )
    return Pair(best.first, best.second, jnp.isfinite(best.score))

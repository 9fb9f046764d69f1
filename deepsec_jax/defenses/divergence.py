"""The Jensen-Shannon divergence in a form that does not saturate."""

import math

import jax
import jax.numpy as jnp


def divergence_excess(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Return -log(1 - JS / ln 2) of two distributions: it grows with the divergence JS, without a bound.

        ln 2 - JS = 1/2 sum of p log(1 + q / p) + q log(1 + p / q)

    Every term is positive and computed from logarithms, so the result is accurate for JS close to ln 2.
    Close to 0 it is JS / ln 2, to about 1e-7.  A class with probability 0 in one of them (-inf) has no term
    there.

    Args:
        log_p: log-probabilities [B, K].
        log_q: the other's.

    Returns:
        float32 [B], at least 0.
    """
    log_p, log_q = log_p.astype(jnp.float32), log_q.astype(jnp.float32)
    possible = ((log_p > -jnp.inf) & (log_q > -jnp.inf)) | jnp.isnan(log_p + log_q)
    gap = jnp.where(possible, log_q, 0.0) - jnp.where(possible, log_p, 0.0)
    terms = (log_p + _log_softplus(gap), log_q + _log_softplus(-gap))
    shared = jnp.concatenate([jnp.where(possible, term, -jnp.inf) for term in terms], axis=-1)
    return math.log(2.0 * math.log(2.0)) - jax.nn.logsumexp(shared, axis=-1)


def _log_softplus(x: jax.Array) -> jax.Array:
    """Return log(log(1 + e^x)), which is x if e^x is small."""
    small = x < -15.0
    return jnp.where(small, x, jnp.log(jax.nn.softplus(jnp.where(small, 0.0, x))))

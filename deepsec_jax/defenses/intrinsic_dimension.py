"""The local intrinsic dimension of points, estimated from their distances to stored reference points."""

import jax
import jax.numpy as jnp
from jax import lax

from deepsec_jax.pytree import Struct

ITSELF = 1e-6
"""Squared distances below this share of the squared norms count as 0: ten times float32 rounding."""

SMALLEST_MEAN = 1e-6
"""Smallest mean of -log(r_i / r_k); smaller ones are rounding errors.  So the dimension is at most 10^6."""


class Reference(Struct):
    """Reference points for distances, centred at their mean for accuracy.

    Attributes:
        centre: their mean [d].
        points: minus the centre [R, d].
        squares: their squared norms [R].
    """

    centre: jax.Array
    points: jax.Array
    squares: jax.Array


def reference_of(points: jax.Array) -> Reference:
    """Return points float32 [R, d] as a reference."""
    centre = jnp.mean(points, axis=0)
    around = points - centre[None, :]
    return Reference(centre, around, jnp.sum(jnp.square(around), axis=1))


def squared_distances(rows: jax.Array, reference: Reference) -> jax.Array:
    """Return the squared distances [B, R] of rows [B, d]; 0 if a row is the reference point itself.

    One matrix product, |a|^2 + |b|^2 - 2 ab, around the reference's mean.  It loses digits if a and b are
    close, so the nearest point's distance is computed from the difference itself.
    """
    around = rows - reference.centre[None, :]
    scale = jnp.sum(jnp.square(around), axis=1)[:, None] + reference.squares[None, :]
    product = jnp.matmul(around, reference.points.T, precision=lax.Precision.HIGHEST)
    squares = scale - 2.0 * product
    nearest = jnp.argmin(squares, axis=1)
    exact = jnp.sum(jnp.square(around - reference.points[nearest]), axis=1)
    is_nearest = jnp.arange(len(reference.squares))[None, :] == nearest[:, None]
    squares = jnp.where(is_nearest, exact[:, None], squares)
    # If all points are equal up to rounding, their centred norms are rounding errors, too.
    rounding = ITSELF * jnp.sum(jnp.square(reference.centre))
    return jnp.where(squares > ITSELF * (scale + rounding), squares, 0.0)


def intrinsic_dimension(rows: jax.Array, reference: Reference, k: int) -> jax.Array:
    """Return the maximum likelihood estimate of the local intrinsic dimension at each row, float32 [B].

        LID = -(1/k sum_i log(r_i / r_k))^-1,     r_1 <= ... <= r_k the distances to the k nearest points

    A reference point is not its own neighbour: distances of 0 are left out, since a single one would make the
    estimate 0.  If all k distances are equal, the estimate is 10^6, without a gradient.  It is 0 if there is
    no other point, and NaN for a row with a NaN.

    Args:
        rows: float32 [B, d]; the estimate of a row depends on that row alone.
        reference: at least k points.
        k: neighbours, static.

    References:
        Amsaleg et al., "Estimating Local Intrinsic Dimensionality", KDD 2015, which has the estimator.
    """
    squares = squared_distances(rows, reference)
    near = -lax.top_k(-jnp.where(squares > 0.0, squares, jnp.inf), k)[0]
    there = jnp.isfinite(near)
    count = jnp.sum(there, axis=1).astype(jnp.float32)
    farthest = jnp.max(jnp.where(there, near, 0.0), axis=1, keepdims=True)
    farthest = jnp.where(farthest > 0.0, farthest, 1.0)
    # From squares and from the difference: near 1 the ratio would be rounded before its logarithm.
    shares = jnp.where(there, near - farthest, 0.0) / farthest
    mean = -0.5 * jnp.sum(jnp.log1p(shares), axis=1) / jnp.maximum(count, 1.0)
    usable = mean > SMALLEST_MEAN
    dimension = jnp.where(usable, 1.0 / jnp.where(usable, mean, 1.0), 1.0 / SMALLEST_MEAN)
    dimension = jnp.where(count > 0.0, dimension, 0.0)
    return jnp.where(jnp.all(jnp.isfinite(rows), axis=1), dimension, jnp.nan)

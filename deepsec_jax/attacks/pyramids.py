"""Square's proposals in L2: pyramids of pixels, and the transfer of length between squares."""

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.geometry import l2_norm
from deepsec_jax.protocols import Images, Keys, Scalar

GRID = 5
"""Number of pyramids per row and per column of the first change."""


def first_pyramids(keys: Keys, shape: tuple[int, ...]) -> Images:
    """Return a grid of 5 x 5 pyramids of random sign and direction, L2 norm 1 in each row, [B, H, W, C].

    A small image gets as many squares per side as fit.
    """
    _, height, width, channels = shape
    side = max(min(height, width) // GRID, 1)
    rows, columns = min(GRID, height // side), min(GRID, width // side)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2

    def one(key: jax.Array) -> jax.Array:
        sign_key, turn_key = jax.random.split(key)
        half = jnp.float32(0.5)  # a Python 0.5 would be drawn with 64 bits under jax_enable_x64
        heads = jax.random.bernoulli(sign_key, half, (rows, columns, channels))
        signs = jnp.where(heads, jnp.float32(1.0), jnp.float32(-1.0))
        turns = jax.random.bernoulli(turn_key, half, (rows, columns))
        flat = _pyramid(jnp.arange(side)[:, None], jnp.arange(side)[None, :], jnp.asarray(side), side)
        tiles = jnp.where(turns[:, :, None, None], flat.T[None, None], flat[None, None])
        grid = tiles[..., None] * signs[:, :, None, None, :]
        whole = jnp.moveaxis(grid, 2, 1).reshape(rows * side, columns * side, channels)
        room = ((top, height - rows * side - top), (left, width - columns * side - left), (0, 0))
        return jnp.pad(whole, room)

    change = jax.vmap(one)(keys)
    return change / _per_row(jnp.maximum(l2_norm(change), 1e-12))


def moved_mass(keys: Keys, delta: Images, side: jax.Array, eps: Scalar) -> Images:
    """Return the change after one proposal: one square is set to 0, another gets its length as a pyramid.

    The second square adds the direction of its old change to the pyramid's, channel by channel.  The length
    that clipping to the box has removed from eps is also added to it.

    Args:
        keys: one per row [B].
        delta: float32 [B, H, W, C].
        side: of the squares, int [B]; made odd, and at least 3 if the image is large enough.
        eps: length of the whole change, a number or [B, 1, 1, 1].
    """
    lengths = jnp.broadcast_to(jnp.ravel(jnp.asarray(eps, jnp.float32)), side.shape)
    return jax.vmap(_moved)(keys, delta, side, lengths)


def _moved(key: jax.Array, delta: jax.Array, side: jax.Array, eps: jax.Array) -> jax.Array:
    height, width, channels = delta.shape
    largest = min(height, width)
    side = jnp.clip(side + (side + 1) % 2, min=min(3, largest), max=largest)
    drawn = jax.random.uniform(key, (5 + channels,), jnp.float32)
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]

    def square(first: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        top, left = _below(drawn[first], height - side + 1), _below(drawn[first + 1], width - side + 1)
        inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        return row - top, column - left, inside[..., None]

    down, right, gains = square(0)
    *_, loses = square(2)
    flat = _pyramid(down, right, side, largest)
    turned = _pyramid(right, down, side, largest)
    signs = jnp.where(drawn[5:] < 0.5, -1.0, 1.0)[None, None]
    added = jnp.where(drawn[4] < 0.5, turned, flat)[..., None] * signs

    def length(part: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(part**2, axis=(0, 1), keepdims=True))  # per channel

    old = jnp.where(gains, delta, 0.0)
    new = jnp.where(gains, added, 0.0) + old / jnp.maximum(length(old), 1e-12)
    spare = jnp.maximum(eps**2 - jnp.sum(delta**2), 0.0) / channels
    budget = jnp.sqrt(spare + length(jnp.where(gains | loses, delta, 0.0)) ** 2)
    new = new * budget / jnp.maximum(length(new), 1e-12)
    changed = jnp.where(gains, new, jnp.where(loses, 0.0, delta))
    return changed * eps / jnp.maximum(jnp.sqrt(jnp.sum(changed**2)), 1e-12)


def _below(number: jax.Array, end: jax.Array) -> jax.Array:
    """Return an integer from 0 to end - 1 for a number in [0, 1)."""
    return jnp.minimum((number * end.astype(jnp.float32)).astype(jnp.int32), end - 1)


def _pyramid(down: jax.Array, right: jax.Array, side: jax.Array, largest: int) -> jax.Array:
    """Return a square with a pyramid in the upper half and a negative one in the lower half.

    The height at ring d around a half's centre is the sum of 1 / k^2 for k > d, up to the outermost ring.
    Values outside the square are undefined.

    Args:
        down: rows from the square's top, int, broadcast against ``right``.
        right: columns from its left.
        side: of the square, int.
        largest: no side is larger, static.
    """
    sums = jnp.asarray(np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, largest + 2) ** 2)]), jnp.float32)
    upper = side // 2

    def half(row: jax.Array, height: jax.Array) -> jax.Array:
        rings = jnp.maximum(height // 2, side // 2) + 1
        ring = jnp.maximum(jnp.abs(row - height // 2), jnp.abs(right - side // 2))
        return sums[jnp.minimum(rings, largest + 1)] - sums[jnp.clip(ring, min=0, max=largest + 1)]

    values = jnp.where(down < upper, half(down, upper), -half(down - upper, side - upper))
    return jnp.broadcast_to(values, jnp.broadcast_shapes(down.shape, right.shape))


def _per_row(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]

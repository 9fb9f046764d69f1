"""Evaluate a PixelCNN pixel by pixel, each choice an input of the next, at the cost of one forward pass.

A new pixel changes one column of every layer; nothing else is recomputed (Ramachandran et al., "Fast
Generation for Convolutional Autoregressive Models", ICLR workshop 2017, arXiv:1704.06001).  The parts that
depend only on the rows above are computed once per row: the whole first stream, and the upper row of every
kernel of the second.  The inner loop stores the input of every convolution one pixel to the left.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from deepsec_jax.loop_carries import varying_alike
from deepsec_jax.models.logistic_mixture import mixture, most_likely, nearest_level, unit_value
from deepsec_jax.models.pixelcnn import GatedBlock, PixelCNN, ShiftedConv, concat_elu
from deepsec_jax.protocols import Images, Scalar

Choose = Callable[[jax.Array, Any], jax.Array]
"""``choose(numbers, given)``: levels, int32 [B, C], from a pixel's distribution [B, P] and ``given``."""

Seen = tuple[jax.Array, jax.Array]
"""The inputs of a block's two convolutions."""


@jax.jit
def purify(model: PixelCNN, x: Images, eps: Scalar) -> Images:
    """Return images where, in raster order, each value is the most likely one within eps of the given one.

    A level is within eps if its value is; if none is, the nearest level is taken.

    Args:
        model: a PixelCNN in evaluation mode.
        x: images [B, H, W, C] in [0, 1].
        eps: radius, in units of the [0, 1] pixel range; traced.

    Returns:
        Images of the dtype of ``x`` on the model's levels, row i from row i only.
    """
    top, nearest = model.levels - 1, nearest_level(x, model.levels)
    slack = 1e-3  # of a level: 0.3 and 76.5 / 255 are the same bound in spite of rounding
    least = jnp.ceil((x - eps) * top - slack).astype(jnp.int32)
    most = jnp.floor((x + eps) * top + slack).astype(jnp.int32)

    def choose(numbers: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> jax.Array:
        return most_likely(mixture(numbers, model.channels), *bounds, model.levels)

    bounds = (jnp.minimum(least, nearest), jnp.maximum(most, nearest))
    levels, _ = walk(model, choose, bounds)
    return levels.astype(x.dtype) / top


def walk(model: PixelCNN, choose: Choose, given: Any) -> tuple[jax.Array, jax.Array]:
    """Choose all pixels in raster order.

    Args:
        model: a PixelCNN in evaluation mode.
        choose: function that chooses the levels of a pixel.
        given: a pytree of arrays [B, H, W, ...]; ``choose`` gets those of its pixel, [B, ...].

    Returns:
        The chosen levels, int32 [B, H, W, C], and the distributions, [B, H, W, P], which are those of the
        model's call on the finished images.
    """
    images, height, width = jax.tree.leaves(given)[0].shape[:3]
    filters, dtype = model.out.kernel.shape[0], model.out.kernel.dtype

    def nothing(blocks: Any, *shape: int) -> list[Seen]:
        empty = jnp.zeros((images, *shape, 2 * filters), dtype)
        return [(empty, empty) for _ in blocks]

    above = [*model.above_first, *model.above_second]
    left = [*model.left_first, *model.left_second]

    def row(state: Any, given: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        last, last_but_one, seen_above, seen_left = state
        us, seen_above = _first_stream(model, last_but_one, last, seen_above)
        of_rows_above = (
            _both(model.row_above, last) + model.left.row(_shifted(last), 0) + model.left.bias,
            [_upper(block, u, *seen) for block, u, seen in zip(left, us, seen_left, strict=True)],
        )

        def column(state: Any, at: Any) -> tuple[Any, Any]:
            pixel, seen = state
            numbers, seen = _second_stream(model, pixel, seen, at[0])
            levels = choose(numbers, at[1])
            pixel = model.with_ones(unit_value(levels, model.levels, dtype))
            return (pixel, seen), (levels, numbers, pixel, seen)

        start = varying_alike((jnp.zeros_like(last[:, 0]), nothing(left)), given)
        by_column = jax.tree.map(lambda part: jnp.moveaxis(part, 1, 0), (of_rows_above, given))
        _, made = lax.scan(column, start, by_column)
        levels, numbers, pixels, seen_left = jax.tree.map(lambda part: jnp.moveaxis(part, 0, 1), made)
        return (pixels, last, seen_above, seen_left), (levels, numbers)

    outside = jnp.zeros((images, width, model.channels + 1), dtype)
    start = varying_alike((outside, outside, nothing(above, width), nothing(left, width)), given)
    _, made = lax.scan(row, start, jax.tree.map(lambda part: jnp.moveaxis(part, 1, 0), given), length=height)
    levels, numbers = jax.tree.map(lambda part: jnp.moveaxis(part, 0, 1), made)
    return levels, numbers


def _first_stream(
    model: PixelCNN, last_but_one: jax.Array, last: jax.Array, seen: list[Seen]
) -> tuple[list[jax.Array], list[Seen]]:
    """Return a row of the first stream for each block of the second, and its own blocks' inputs."""
    us, now = [_both(model.above, last_but_one, last)], []

    def through(block: GatedBlock, x: jax.Array, added: Any, before: Seen) -> jax.Array:
        out, both = block.apply(
            x, added,
            lambda h: _both(block.first, before[0], h), lambda g: _both(block.second, before[1], g),
        )  # fmt: skip
        now.append(both)
        return out

    rest = iter(seen)
    for block in model.above_first:
        us.append(through(block, us[-1], 0.0, next(rest)))
    views, u = us[1:], us.pop()
    for block in model.above_second:
        u = through(block, u, block.added([us.pop()]), next(rest))
        views.append(u)
    return views, now


def _second_stream(
    model: PixelCNN, pixel: jax.Array, seen: list[Seen], of_rows_above: tuple[jax.Array, list[Any]]
) -> tuple[jax.Array, list[Seen]]:
    """Return one pixel's distribution [B, P], given the pixel to the left and the blocks' inputs there."""
    begin, uppers = of_rows_above
    vs, now = [begin + pixel @ model.left.matrix(1)], []

    def through(block: GatedBlock, x: jax.Array, skip: Any, before: Seen, upper: Any) -> jax.Array:
        out, both = block.apply(
            x, skip,
            lambda h: upper[0] + jnp.concatenate([before[0], h], axis=-1) @ block.first.matrix(1),
            lambda g: upper[1] + jnp.concatenate([before[1], g], axis=-1) @ block.second.matrix(1),
        )  # fmt: skip
        now.append(both)
        return out

    rest = iter(zip(seen, uppers, strict=True))
    for block in model.left_first:
        vs.append(through(block, vs[-1], 0.0, *next(rest)))
    v = vs.pop()
    for block in model.left_second:
        v = through(block, v, block.extras[1](concat_elu(vs.pop())), *next(rest))
    return model.out(nnx.elu(v)), now


def _upper(block: GatedBlock, u: jax.Array, first: jax.Array, second: jax.Array) -> Seen:
    """Return the contribution of the first stream and the row above to a block, [B, W, filters]."""
    from_first_stream = block.extras[0](concat_elu(u))
    return (
        from_first_stream + block.first.row(first, 0) + block.first.bias,
        block.second.row(second, 0) + block.second.bias,
    )


def _both(conv: ShiftedConv, *rows: jax.Array) -> jax.Array:
    """Return one row of a convolution's output from all input rows of its kernel."""
    return sum((conv.row(row, which) for which, row in enumerate(rows)), conv.bias)


def _shifted(row: jax.Array) -> jax.Array:
    """Return a row shifted right by one pixel."""
    return jnp.pad(row, ((0, 0), (1, 0), (0, 0)))[:, :-1]

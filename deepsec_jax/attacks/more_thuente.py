"""Moré and Thuente's line search, one row per example, one evaluation per step.

It finds a step with sufficient decrease (Armijo) and a small slope (strong Wolfe), by cubic and quadratic
interpolation inside a bracket.  Each row has its own state, so rows may be at different stages.

Moré and Thuente, "Line Search Algorithms with Guaranteed Sufficient Decrease", ACM TOMS 1994.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

SUFFICIENT = 1e-3
"""Required share of the decrease predicted by the slope; this and the next two are L-BFGS-B's values."""
FLATTER = 0.9
"""Allowed share of the initial slope."""
NARROW = 0.1
"""The search ends at this relative width of the bracket."""
LONGEST = 20
"""Maximum number of evaluations per search."""


class Sample(NamedTuple):
    """One point on the line, [B] each."""

    step: jax.Array
    value: jax.Array
    slope: jax.Array


class Search(NamedTuple):
    """The search so far, [B] each."""

    step: jax.Array  # next to evaluate
    largest: jax.Array  # step that stays in the box
    origin: Sample
    best: Sample
    other: Sample  # end of the bracket opposite to the best
    low: jax.Array  # the next step lies between these two
    high: jax.Array
    bracketed: jax.Array  # bool
    second: jax.Array  # bool: a point had sufficient decrease and a positive slope
    widths: tuple[jax.Array, jax.Array]  # widths of the last two brackets
    evaluations: jax.Array  # int32


def search_start(value: jax.Array, slope: jax.Array, largest: jax.Array) -> Search:
    """Return the search with first step 1, from a point with this value and slope; all [B]."""
    nothing, no = jnp.zeros_like(value), jnp.zeros(value.shape, bool)
    origin = Sample(nothing, value, slope)
    return Search(
        step=jnp.ones_like(value), largest=largest, origin=origin, best=origin, other=origin, low=nothing,
        high=jnp.full_like(value, 5.0), bracketed=no, second=no, widths=(largest, 2.0 * largest),
        evaluations=jnp.zeros(value.shape, jnp.int32),
    )  # fmt: skip


def search_step(search: Search, value: jax.Array, slope: jax.Array) -> tuple[Search, jax.Array]:
    """Update with value and slope [B] at ``search.step``; return the next state, and which searches end."""
    origin, here = search.origin, Sample(search.step, value, slope)
    promised = SUFFICIENT * origin.slope
    enough = value <= origin.value + here.step * promised
    second = search.second | (enough & (slope >= 0))
    spent = search.bracketed & (
        (here.step <= search.low)
        | (here.step >= search.high)
        | (search.high - search.low <= NARROW * search.high)
    )
    at_end = (here.step >= search.largest) & enough & (slope <= promised)
    ends = spent | at_end | (enough & (jnp.abs(slope) <= -FLATTER * origin.slope))

    # Before the first sufficient decrease, interpolate the missing decrease instead of the value.
    tilts = ~second & (value <= search.best.value) & ~enough
    tilt = jnp.where(tilts, promised, 0.0)
    best, other, step, bracketed = _interpolated(
        _tilted(search.best, -tilt), _tilted(search.other, -tilt), _tilted(here, -tilt),
        search.bracketed, search.low, search.high,
    )  # fmt: skip
    best, other = _tilted(best, tilt), _tilted(other, tilt)
    width = jnp.abs(other.step - best.step)
    bisects = bracketed & (width >= 0.66 * search.widths[1])
    step = jnp.where(bisects, best.step + 0.5 * (other.step - best.step), step)
    widths = (
        jnp.where(bracketed, width, search.widths[0]),
        jnp.where(bracketed, search.widths[0], search.widths[1]),
    )
    ahead = step - best.step
    low = jnp.where(bracketed, jnp.minimum(best.step, other.step), step + 1.1 * ahead)
    high = jnp.where(bracketed, jnp.maximum(best.step, other.step), step + 4.0 * ahead)
    step = jnp.clip(step, min=0.0, max=search.largest)
    nothing_left = bracketed & ((step <= low) | (step >= high) | (high - low <= NARROW * high))
    step = jnp.where(nothing_left, best.step, step)
    search = Search(
        step, search.largest, origin, best, other, low, high, bracketed, second, widths,
        search.evaluations + 1,
    )  # fmt: skip
    return search, ends


def _tilted(sample: Sample, slope: jax.Array) -> Sample:
    """Return the sample of the function plus slope x step."""
    return Sample(sample.step, sample.value + slope * sample.step, sample.slope + slope)


def _interpolated(
    best: Sample, other: Sample, here: Sample, bracketed: jax.Array, low: jax.Array, high: jax.Array
) -> tuple[Sample, Sample, jax.Array, jax.Array]:
    """Return the new bracket's ends, the next step, and whether there is a bracket: the four cases."""
    forward = here.step > best.step
    beyond = jnp.where(forward, high, low)
    back = best.step - here.step
    secant = here.step + here.slope / (here.slope - best.slope) * back

    # The value increased: between the cubic's minimum and the parabola's, closer to the best.
    _, cubic = _cubic(here, best, forward)
    drop = (best.value - here.value) / (here.step - best.step)
    parabola = best.step - best.slope / (drop + best.slope) / 2 * back
    nearer = jnp.abs(cubic - best.step) < jnp.abs(parabola - best.step)
    rose = jnp.where(nearer, cubic, cubic + (parabola - cubic) / 2)

    # The slope changed sign: the cubic's minimum or the secant's, whichever is farther.
    share, cubic = _cubic(best, here, ~forward)
    turned = jnp.where(jnp.abs(cubic - here.step) > jnp.abs(secant - here.step), cubic, secant)

    # The slope is flatter: the cubic is used only if its minimum lies ahead.
    cubic = jnp.where(share < 0, cubic, beyond)
    nearer = jnp.abs(cubic - here.step) < jnp.abs(secant - here.step)
    limit = here.step + 0.66 * (other.step - here.step)
    inside = jnp.where(nearer, cubic, secant)
    inside = jnp.where(forward, jnp.minimum(limit, inside), jnp.maximum(limit, inside))
    flatter = jnp.where(bracketed, inside, jnp.clip(jnp.where(nearer, secant, cubic), min=low, max=high))

    # The slope is not flatter: the cubic of the bracket, or the largest allowed step.
    _, cubic = _cubic(other, here, here.step < other.step)
    steeper = jnp.where(bracketed, cubic, beyond)

    higher = here.value > best.value
    turns = here.slope * jnp.sign(best.slope) < 0
    step = jnp.where(jnp.abs(here.slope) < jnp.abs(best.slope), flatter, steeper)
    step = jnp.where(higher, rose, jnp.where(turns, turned, step))
    other = _chosen(higher, here, _chosen(turns, best, other))
    return _chosen(higher, best, here), other, step, bracketed | higher | turns


def _cubic(far: Sample, near: Sample, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the minimum of the cubic through both, as share of the distance from near to far and as step.

    Args:
        far: one end.
        near: the other; the minimum is measured from here.
        ahead: bool [B]: far has the larger step.
    """
    theta = 3 * (far.value - near.value) / (near.step - far.step) + far.slope + near.slope
    scale = jnp.maximum(jnp.abs(theta), jnp.maximum(jnp.abs(far.slope), jnp.abs(near.slope)))
    scale = jnp.where(scale > 0, scale, 1.0)
    root = (theta / scale) ** 2 - (far.slope / scale) * (near.slope / scale)
    gamma = scale * jnp.sqrt(jnp.maximum(root, 0.0))
    gamma = jnp.where(ahead, gamma, -gamma)
    share = (gamma - near.slope + theta) / (2 * gamma - near.slope + far.slope)
    return share, near.step + share * (far.step - near.step)


def _chosen(which: jax.Array, yes: Sample, no: Sample) -> Sample:
    return Sample(*(jnp.where(which, a, b) for a, b in zip(yes, no, strict=True)))

"""Projections and steps in balls and the box: L-inf and L2, one image per row, float32.

``norm`` is the static string "linf" or "l2" here; an attack's own may be 2 or infinity as well
(:func:`find_norm`).  Images are [B, H, W, C]; eps and lengths of steps are numbers,
or [B, 1, 1, 1] with one per image.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from deepsec_jax.protocols import Images, Keys, Scalar

if TYPE_CHECKING:

    class Norm:
        """The type of an attack's field: it takes a name or a number, and holds the name."""

        def __get__(self, attack: object, kind: type) -> str:
            return ""

        def __set__(self, attack: object, norm: str | float) -> None: ...

else:
    Norm = str

NORMS = ("linf", "l2")

_NUMBERS = {0: "l0", 1: "l1", 2: "l2", math.inf: "linf"}
_SPELLINGS = {"inf": "linf", "l_inf": "linf", "l_2": "l2", "l_1": "l1", "l_0": "l0"}

INSIDE = 1.0 - 2.0**-21
"""Factor of eps in an L2 projection, for the rounding of the length and the point."""


def find_norm(norm: str | float, norms: Sequence[str] = NORMS) -> str:
    """Return the name of a norm: ``"l2"`` for ``"L2"``, 2 and 2.0, ``"linf"`` for ``numpy.inf``.

    Args:
        norm: what was given.
        norms: names of those that can be had.

    Raises:
        ValueError: none of them.
    """
    name = norm
    if isinstance(norm, str):
        name = _SPELLINGS.get(norm.lower(), norm.lower())
    elif isinstance(norm, Real) and not isinstance(norm, bool):
        name = _NUMBERS.get(norm, norm)
    if name not in norms:
        numbers = ", ".join(str(number) for number, each in _NUMBERS.items() if each in norms)
        raise ValueError(f"must be one of {', '.join(norms)} (or {numbers}), got {norm!r}")
    return str(name)


def _per_row(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def l2_norm(delta: Images) -> jax.Array:
    """Return the L2 norm of each row, [B], scaled so that no square under- or overflows."""
    largest = jnp.max(jnp.abs(delta), axis=(1, 2, 3), initial=0.0)
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum((delta / _per_row(scale)) ** 2, axis=(1, 2, 3)))


def steepest(direction: Images, norm: str) -> Images:
    """Return the steepest unit step along ``direction``: its sign, or ``direction`` divided by its L2 norm.

    A zero direction gives a zero step.
    """
    if norm == "linf":
        return jnp.sign(direction)
    length = l2_norm(direction)
    return direction / _per_row(jnp.where(length > 0, length, 1.0))


def project(x_adv: Images, x: Images, eps: Scalar, norm: str) -> Images:
    """Return the point of the eps-ball around ``x`` nearest to ``x_adv``, then clipped to [0, 1].

    Clipping only reduces the distance to ``x``, which is in the box, so the result stays in the ball.
    """
    if norm == "linf":  # both clips are exact, so a point inside is unchanged bit for bit
        return jnp.clip(jnp.clip(x_adv, min=x - eps, max=x + eps), min=0.0, max=1.0)
    length = _per_row(l2_norm(x_adv - x))
    shrink = jnp.minimum(1.0, eps / jnp.where(length > 0, length, 1.0))
    # A point inside is returned unchanged: x + (x_adv - x) would change it by an ulp.
    shortened = x + (x_adv - x) * (INSIDE * shrink)
    inside = jnp.where(shrink < 1.0, shortened, x_adv)
    return jnp.clip(inside, min=0.0, max=1.0)


def towards(x_adv: Images, x: Images) -> Images:
    """Convert float32 ``x_adv`` to the dtype of ``x``, rounded towards ``x`` to stay in the ball.

    An entry that equals that of ``x`` in float32 becomes that of ``x``, so unchanged entries are returned bit
    for bit.  If ``x`` is float64, a changed entry may be half an ulp of float32 farther away than before;
    :func:`stored_in_ball` corrects this.
    """
    if is_finer(x):
        return jnp.where(x_adv == x.astype(x_adv.dtype), x, x_adv.astype(x.dtype))
    rounded = x_adv.astype(x.dtype)
    if rounded.dtype == x_adv.dtype:
        return rounded
    farther = jnp.abs(rounded.astype(x_adv.dtype) - x.astype(x_adv.dtype)) > jnp.abs(
        x_adv - x.astype(x_adv.dtype)
    )
    return jnp.where(farther, jnp.nextafter(rounded, x), rounded)


def stored_in_ball(x_adv: Images, x: Images, eps: Scalar, norm: str) -> Images:
    """Convert float32 ``x_adv`` in the ball around float32 ``x`` to the dtype and the ball of ``x``."""
    stored = towards(x_adv, x)
    return project(stored, x, jnp.asarray(eps).astype(x.dtype), norm) if is_finer(x) else stored


def is_finer(x: Images) -> bool:
    """Tell whether the images are more precise than float32, the dtype of attacks."""
    return jnp.finfo(x.dtype).bits > 32


def at_least_float32(x: Images) -> Images:
    """Return the images as float32, or unchanged if more precise; no value changes."""
    return x if is_finer(x) else x.astype(jnp.float32)


def uniform_in_ball(keys: Keys, x: Images, eps: Scalar, norm: str) -> Images:
    """Return one point per row, uniform in the eps-ball around ``x``, clipped to [0, 1]."""
    return jnp.clip(x + eps * uniform_in_unit_ball(keys, x.shape[1:], norm), min=0.0, max=1.0)


def uniform_in_unit_ball(keys: Keys, shape: tuple[int, ...], norm: str) -> Images:
    """Return one point per row, uniform in the unit ball around 0, [B, *shape]."""
    if norm == "linf":
        return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0))(keys)

    def one(key: jax.Array) -> jax.Array:
        direction_key, radius_key = jax.random.split(key)
        direction = jax.random.normal(direction_key, shape, jnp.float32)
        size = direction.size
        radius = jax.random.uniform(radius_key, (), jnp.float32) ** (1.0 / size)
        return direction * (radius / jnp.maximum(jnp.linalg.norm(direction.ravel()), 1e-12))

    return jax.vmap(one)(keys)

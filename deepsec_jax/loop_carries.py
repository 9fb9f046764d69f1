"""The first carry of a loop over rows, inside ``jax.shard_map``.

There jax distinguishes values that are equal on every device from values that differ, and demands the same of
a carry before and after each step.  Zeros are equal everywhere; what a step adds to them differs.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def varying_alike(carry: T, *by: Any) -> T:
    """Return a carry whose arrays all count as different per device if one of them, or of ``by``, does.

    The values are unchanged, and outside ``jax.shard_map`` the carry is, too.

    Args:
        carry: a pytree of arrays and numbers.
        by: further pytrees that the steps use, such as the images.
    """
    axes = frozenset[str]().union(*map(_varying, jax.tree.leaves((carry, by))))

    def marked(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _varying(leaf)))
        return jax.lax.pcast(jnp.asarray(leaf), missing, to="varying") if missing else leaf

    result: T = jax.tree.map(marked, carry)
    return result


def _varying(leaf: Any) -> frozenset[str]:
    """Return the axes of the mesh along which a value differs."""
    kind = jax.typeof(leaf)
    axes: frozenset[str] = kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", frozenset())
    return axes

"""Meshes with explicit axes (``jax.make_mesh``), where the types of arrays say how they are split.

There an operation such as ``top_k`` refuses rows that are split along the classes.  Which weights a caller
splits is not ours to know, so our compiled functions run on the same mesh with automatic axes, where XLA
decides.  No array is copied: only the description of its place changes.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

T = TypeVar("T")


def call_automatic(function: Callable[..., T], *args: Any, **named: Any) -> T:
    """Return ``function(*args, **named)``, where arrays on an explicit mesh count as on an automatic one.

    The result lies on the explicit mesh again.  Inside jit the function is called as it is.
    """
    given = (args, named)
    explicit = None if jax.device_count() == 1 else _explicit_mesh(given)
    if explicit is None:
        return function(*args, **named)
    automatic = automatic_mesh(explicit)
    args, named = _moved(given, explicit, automatic)
    with jax.set_mesh(automatic):  # the caller may have set the explicit one
        result = function(*args, **named)
    return _moved(result, automatic, explicit)


def on_automatic_mesh(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function that is called by :func:`call_automatic`, for code that also computes outside jit."""

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> T:
        return call_automatic(function, *args, **named)

    return call


def automatic_mesh(mesh: Mesh | AbstractMesh) -> Mesh:
    """Return the mesh of devices with automatic axes only."""
    assert isinstance(mesh, Mesh), "arrays lie on a mesh of devices"
    return Mesh(mesh.devices, mesh.axis_names)


def _explicit_mesh(tree: Any) -> Mesh | None:
    """Return the mesh of the first array on one with explicit axes; None inside jit."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    meshes = [leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)]
    return next(
        (mesh for mesh in meshes if isinstance(mesh, Mesh) and AxisType.Explicit in mesh.axis_types), None
    )


def _moved(tree: T, before: Mesh, after: Mesh) -> T:
    """Return a pytree with the arrays of one mesh described by another one of the same devices."""

    def moved(leaf: Any) -> Any:
        sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
        if not isinstance(sharding, NamedSharding) or sharding.mesh != before:
            return leaf
        return jax.device_put(leaf, NamedSharding(after, sharding.spec))

    result: T = jax.tree.map(moved, tree)
    return result

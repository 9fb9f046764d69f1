"""Several devices: where a model lies decides where its rows are computed.

:func:`on_devices` copies a model to every device of a mesh.  What takes images for a model asks
:func:`rows_sharding` of it and splits the rows in the same way: attacks, judge, targets, metrics, training.
Without this jax would compute every row on every device.

The mesh may span several processes (``jax.distributed``).  All of them call the same functions with the same
images, each moves and computes the rows of its own devices, and all get all results.

A model of your own may have weights split along other axes of its mesh.  They remain split.  Rows lie along
the axes that no weight uses.
"""

import math
import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepsec_jax.randomness import is_key

T = TypeVar("T")

ROWS = "rows"
"""The axis of the mesh of :func:`on_devices`."""


def on_devices(tree: T, devices: Sequence[jax.Device]) -> T:
    """Return a model, or any pytree, with its arrays on every device; with one device on that one.

    Args:
        tree: the pytree.
        devices: at least one.
    """
    whole = NamedSharding(Mesh(np.array(devices), (ROWS,)), PartitionSpec())
    placed: T = jax.tree.map(lambda leaf: put(leaf, whole) if _is_array(leaf) else leaf, tree)
    return placed


def beside(tree: T, model: Any) -> T:
    """Return a pytree on the devices of a model; unchanged if the model lies on one device."""
    sharding = rows_sharding(model)
    return tree if sharding is None else on_mesh(tree, sharding)


def on_mesh(tree: T, sharding: NamedSharding) -> T:
    """Return a pytree with its arrays on every device of a mesh; arrays that lie on it remain as they are.

    Numbers of Python remain as well: jax gives an array another kind of number.
    """

    def moved(leaf: Any) -> Any:
        there = isinstance(leaf, jax.Array) and _spec_of(leaf, sharding.mesh) is not None
        return leaf if there or not _is_array(leaf) else put(leaf, everywhere(sharding))

    placed: T = jax.tree.map(moved, tree)
    return placed


def put(tree: T, sharding: jax.sharding.Sharding) -> T:
    """Return a pytree of arrays with a sharding.

    If it spans several processes, each of them calls this with the same arrays and moves the parts of its own
    devices.
    """
    if sharding.is_fully_addressable:
        moved: T = jax.device_put(tree, sharding)
        return moved

    def parts(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)  # from one sharding of these devices to another
        if is_key(leaf):
            words = parts(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    result: T = jax.tree.map(parts, tree)
    return result


def on_host(array: Any) -> np.ndarray:
    """Return an array in the host's memory; rows of other processes are fetched from them."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def leads() -> bool:
    """Tell whether this process writes files that all processes share; always true for a single one."""
    return jax.process_index() == 0


def together(place: str) -> None:
    """Wait until all processes have come to this place of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def of_leader(value: Any) -> Any:
    """Return the first process's value in every process; others may give None.

    Args:
        value: anything that pickles.
    """
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(pickle.dumps(value if leads() else None), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    room = np.zeros(length, np.uint8)
    room[: min(length, len(content))] = content[:length]
    return pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(room)).tobytes())


def everywhere(sharding: NamedSharding) -> NamedSharding:
    """Return the sharding of arrays that every device of the mesh has whole."""
    return NamedSharding(sharding.mesh, PartitionSpec())


def rows_sharding(model: Any) -> NamedSharding | None:
    """Return the sharding of rows [B, ...] for a model; None for a model on one device, or inside jit."""
    floats = [
        leaf
        for leaf in jax.tree.leaves(model)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    mesh = next((mesh for leaf in floats if (mesh := _mesh_of(leaf)) is not None), None)
    if mesh is None:
        return None
    specs = [spec for leaf in floats if (spec := _spec_of(leaf, mesh)) is not None]
    used = {name for spec in specs for part in spec for name in _names(part)}
    free = tuple(name for name in mesh.axis_names if name not in used)
    parts = math.prod(mesh.shape[name] for name in free)
    return NamedSharding(mesh, PartitionSpec(free)) if parts > 1 else None


def parts_of(sharding: NamedSharding) -> int:
    """Return the number of parts of the rows."""
    return math.prod(sharding.mesh.shape[name] for name in rows_axes(sharding))


def rows_axes(sharding: NamedSharding) -> tuple[str, ...]:
    """Return the axes of the mesh along which rows are split."""
    return _names(sharding.spec[0]) if len(sharding.spec) else ()


def whole_parts(rows: int, sharding: NamedSharding | None) -> int:
    """Return the smallest number that is not below ``rows`` and that the devices divide."""
    parts = 1 if sharding is None else parts_of(sharding)
    return -(-rows // parts) * parts


def place_rows(model: Any, rows: T) -> T:
    """Return arrays [B, ...] split over the devices of a model; unchanged for a model on one device.

    If the devices do not divide B, every device gets all rows.

    Args:
        model: the model.
        rows: a pytree of arrays, all with B rows.
    """
    sharding = rows_sharding(model)
    leaves = jax.tree.leaves(rows)
    if sharding is None or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return rows
    even = all(np.shape(leaf)[0] % parts_of(sharding) == 0 for leaf in leaves)
    placed: T = put(rows, sharding if even else everywhere(sharding))
    return placed


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _mesh_of(leaf: jax.Array) -> Mesh | None:
    """Return the mesh of an array on several devices."""
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf.sharding, NamedSharding):
        return None
    mesh = leaf.sharding.mesh
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def _spec_of(leaf: jax.Array, mesh: Any) -> PartitionSpec | None:
    """Return how an array lies on a mesh; None if it does not."""
    sharding = None if isinstance(leaf, jax.core.Tracer) else leaf.sharding
    return sharding.spec if isinstance(sharding, NamedSharding) and sharding.mesh == mesh else None


def _names(part: Any) -> tuple[str, ...]:
    """Return the axes in one entry of a PartitionSpec."""
    return () if part is None else part if isinstance(part, tuple) else (part,)

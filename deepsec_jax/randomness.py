"""Random numbers: keys, one per example, and randomised models."""

import math
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deepsec_jax.protocols import Key, Keys

T = TypeVar("T")


def is_key(leaf: Any) -> TypeGuard[jax.Array]:
    """Tell whether a leaf is an array of typed PRNG keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


IMPLEMENTATION = "threefry2x32"
"""The only key implementation used here.  With ``rbg``, jax's other one, a vmapped draw depends on the
batch.
"""


def root_key(seed: int) -> Key:
    """Return the key of a seed: ``jax.random.key``, independent of ``jax_default_prng_impl``."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def typed_key(key: Any) -> Key:
    """Return one key or an array of keys as threefry keys, the only ones with independent rows.

    A threefry key is returned unchanged.  From any other key a threefry key is derived.  ``rbg`` makes its
    key from a seed by repeating the threefry key, also in ``split`` and ``fold_in``, so the same seed draws
    the same numbers.  For a key without this form all words are used.

    Args:
        key: typed keys of any implementation; or raw uint32 ones of ``jax.random.PRNGKey``, two words
            (threefry) or four (rbg) along the last axis.

    Raises:
        TypeError: not a key.
    """
    if is_key(key):
        if jax.random.key_impl(key) == IMPLEMENTATION:
            return key
        words = jax.random.key_data(key)
        words = words.reshape(*key.shape, math.prod(words.shape[key.ndim :]))
    elif getattr(key, "dtype", None) == jnp.uint32 and np.shape(key)[-1:] in ((2,), (4,)):
        words = jnp.asarray(key)
    else:
        raise TypeError(f"key must be made by jax.random.key(seed), got {type(key).__name__}")
    if words.shape[-1] == 2:
        typed: Key = jax.random.wrap_key_data(words, impl=IMPLEMENTATION)
        return typed
    each = words.reshape(math.prod(words.shape[:-1]), words.shape[-1])
    return jax.vmap(_threefry)(each).reshape(words.shape[:-1])


def _threefry(words: jax.Array) -> Key:
    """Return the threefry key derived from another implementation's key, uint32 [words]."""
    first = jax.random.wrap_key_data(jnp.resize(words, (2,)), impl=IMPLEMENTATION)
    mixed = first
    for word in words[2:]:
        mixed = jax.random.fold_in(mixed, word)
    return jnp.where(jnp.all(words == jnp.resize(words[:2], words.shape)), first, mixed)


def example_keys(key: Key | Keys, rows: int, *, first: int | jax.Array = 0) -> Keys:
    """Return one key per example, [rows], threefry.

    From one key, row i of the data set gets ``fold_in(key, i)``, independent of its batch.  Keys that are one
    per example are returned unchanged.

    Args:
        key: one key, or ``rows`` keys; see :func:`typed_key`.
        rows: number of examples.
        first: index of the first one in the data set.

    Raises:
        ValueError: another number of keys than examples.
    """
    key = typed_key(key)
    if key.shape == ():
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(rows))
    if key.shape != (rows,):
        raise ValueError(f"key must be one key or {rows} keys, one per image, got shape {key.shape}")
    return key


def first_keys() -> Keys:
    """Return the initial keys [1] of a randomised model; see :func:`one_per_row`."""
    return jax.random.split(root_key(0), 1)


def one_per_row(keys: Keys, rows: int) -> Keys:
    """Return one key per row of a batch [rows]; a single one is folded with the row's index.

    It lets a randomised model be called before it is reseeded.

    Raises:
        ValueError: neither one key nor one per row.
    """
    if keys.shape[0] != rows and keys.shape != (1,):
        raise ValueError(
            f"this model has keys for {keys.shape[0]} rows and was given {rows}: "
            "randomness.reseed(model, example_keys(key, rows)) gives it one for each"
        )
    return typed_key(keys) if keys.shape[0] == rows else example_keys(keys[0], rows)


def is_randomised(model: Any) -> bool:
    """Tell whether a model draws random numbers: a class somewhere in it names fields of keys, one per row.

    A class declares this with ``row_keys: ClassVar[tuple[str, ...]] = ("keys",)``.  ``row_keys = ()``
    declares that none of its keys is one per row.  Streams of nnx (Dropout) need no declaration: evaluation
    mode does not draw.

    Raises:
        ValueError: a named field is not an array of keys [B], or no class declares an array of keys [n].
    """
    return any(_row_keys(model))


def reseed(model: T, keys: Keys) -> T:
    """Return the model with new keys, one per row; a deterministic model is returned unchanged.

    A model with several fields of keys gets different numbers in each.

    Args:
        model: a classifier, or any pytree of classifiers.
        keys: one per row [B]; see :func:`typed_key`.

    Raises:
        ValueError: as for :func:`is_randomised`.
    """

    def fresh(old: Keys, order: int) -> Keys:
        del old
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(typed_key(keys), order)

    return with_row_keys(model, fresh)


def with_row_keys(model: T, change: Callable[[Keys, int], Keys]) -> T:
    """Return the model with changed row keys; one without row keys is returned unchanged.

    Args:
        model: any pytree.
        change: ``change(keys, order)`` returns the new keys [B]; ``order`` is the number of previous key
            fields.
    """
    chosen = _row_keys(model)
    if not any(chosen):
        return model
    leaves, structure = jax.tree.flatten(model)
    places = [place for place, is_row_key in enumerate(chosen) if is_row_key]
    for order, place in enumerate(places):
        leaves[place] = change(leaves[place], order)
    changed: T = jax.tree.unflatten(structure, leaves)
    return changed


def _row_keys(tree: Any, path: tuple[Any, ...] = ()) -> list[bool]:
    """Return for every leaf whether a class declares it as one key per row."""
    if _speaks(tree):
        return _said(tree, path)
    found = []
    for place, part in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_part):
        if _speaks(part):
            found += _said(part, (*path, *place))
        elif isinstance(part, nnx.RngState):
            found += [False] * len(jax.tree.leaves(part))
        elif is_key(part) and part.ndim == 1:
            raise ValueError(
                f"the model's leaf {jax.tree_util.keystr((*path, *place))} is an array of PRNG keys "
                f"[{part.shape[0]}] of which no class says what it is: in the class that holds it, set "
                f"row_keys = ({_name(place[-1:]) or 'name of the field'!r},) if it is one key per row (for a "
                "function: models.wrappers.Randomised), row_keys = () if not"
            )
        else:
            found.append(False)
    return found


def _said(node: Any, path: tuple[Any, ...]) -> list[bool]:
    """Return for every leaf of a node whether the node's class declares it as one key per row."""
    kind, names = type(node).__name__, type(node).row_keys
    if not isinstance(names, tuple):
        raise ValueError(f"{kind}.row_keys must be a tuple of names of fields, ('keys',), got {names!r}")
    fields = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda part: part is not node)
    missing = set(names) - {_name(place) for place, _ in fields}
    if missing:
        raise ValueError(
            f"{kind}.row_keys names {sorted(missing)[0]!r}, which jax does not see as a field of {kind}: "
            "name fields that are pytree children with names, as those of deepsec_jax.pytree.Struct are"
        )
    found = []
    for place, field in fields:
        leaves = jax.tree.leaves(field)
        if _name(place) in names:
            if not (len(leaves) == 1 and is_key(leaves[0]) and leaves[0].ndim == 1):
                raise ValueError(
                    f"{kind}.row_keys names {_name(place)!r}, which must hold one PRNG key per row, [B], "
                    f"got {_described(leaves)}: make it by jax.random.split(key, rows)"
                )
            found.append(True)
            continue
        # The class declares keys in its own fields, also in lists and dicts there; not in inner models.
        for inner, part in jax.tree_util.tree_leaves_with_path(field, is_leaf=_is_no_container):
            own = jax.tree_util.all_leaves([part])
            found += [False] if own else _row_keys(part, (*path, *place, *inner))
    return found


def _speaks(node: Any) -> bool:
    return hasattr(type(node), "row_keys")


def _is_part(node: Any) -> bool:
    return _speaks(node) or isinstance(node, nnx.RngState)


def _is_no_container(node: Any) -> bool:
    return not isinstance(node, dict | list | tuple | nnx.Variable)


def _name(path: tuple[Any, ...]) -> str:
    """Return the name of the first step of a path; "" if it is a number."""
    name = getattr(path[0], "name", getattr(path[0], "key", "")) if path else ""
    return name if isinstance(name, str) else ""


def _described(leaves: list[Any]) -> str:
    if len(leaves) != 1:
        return f"{len(leaves) or 'no'} leaves"
    (leaf,) = leaves
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__

"""Models of other libraries as callable pytrees: arrays are traced, everything else is static."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.foreign import described, in_training, library_of, why_no_model
from deepsec_jax.protocols import Images, Keys, Logits
from deepsec_jax.pytree import Struct, static


def from_callable(
    function: Callable[..., Logits], *params: Any, channels_first: bool = False, **options: Any
) -> "Adapted":
    """Return the model ``x -> function(*params, x, **options)``.

    Like ``jax.tree_util.Partial(function, *params, **options)``, but only arrays are traced.  Flags
    (``train=False``), numbers, names and functions, anywhere in ``function``, ``params`` and ``options``, are
    static.  Other arrays of the same shape reuse the compiled attack.  Pass a number as an array to trace it.

        models.from_callable(net.apply, variables, train=False)  # Linen
        models.from_callable(apply, params)                      # plain JAX

    Args:
        function: from images [B, H, W, C] in [0, 1] to raw logits [B, K], not to probabilities (a softmax
            hides the gradient), row by row, in evaluation mode. A module-level function is compiled once, a
            new lambda at each call.  May be a ``functools.partial``, or a pytree.
        params: pytrees of weights.
        channels_first: whether ``function`` takes images [B, C, H, W]; the model takes [B, H, W, C] anyway.
        options: keyword arguments of ``function``.

    Raises:
        TypeError: no array at all, a model with an adapter of its own, or a value that cannot be static.
        ValueError: a module in training mode.
    """
    if library_of(function) not in (None, "Equinox"):
        raise TypeError(why_no_model(function))
    while isinstance(function, functools.partial) and not isinstance(function, jax.tree_util.Partial):
        params, options = (*function.args, *params), {**function.keywords, **options}
        function = function.func
    return adapted(function, params, options, channels_first=channels_first)


def adapted(
    function: Callable[..., Any], params: tuple[Any, ...], options: dict[str, Any], *, channels_first: bool
) -> "Adapted":
    """Return an :class:`Adapted` of checked arguments, for :func:`from_callable` and the other adapters."""
    for part in (function, *params):
        problem = in_training(part)
        if problem is not None:
            raise ValueError(problem)
    if not isinstance(channels_first, bool):
        raise ValueError(f"channels_first must be True or False, got {channels_first!r}")
    paths, structure = jax.tree_util.tree_flatten_with_path((function, params, options), is_leaf=_is_none)
    arrays, others = [], []
    for index, (path, leaf) in enumerate(paths):
        array = _as_array(leaf)
        arrays.append(array)
        if array is None:
            others.append((index, type(leaf), _checked(path, leaf)))
    if len(others) == len(arrays):
        raise TypeError(
            f"{described(function)} comes without arrays, so that its weights would be baked in: pass them, "
            "as in from_callable(apply, params) with a module-level apply(params, x)"
        )
    return Adapted(jax.tree.unflatten(structure, arrays), Fixed(tuple(others)), channels_first)


@dataclass(frozen=True, repr=False)
class Fixed:
    """The leaves of a function and its arguments that are not arrays.

    Attributes:
        others: position among all leaves, type and value of each; 1 and True differ.
    """

    others: tuple[tuple[int, type, Any], ...]

    def joined(self, arrays: Any) -> Any:
        """Return a pytree of arrays with the Nones replaced by these values."""
        leaves, structure = jax.tree.flatten(arrays, is_leaf=_is_none)
        for index, _, value in self.others:
            leaves[index] = value
        return jax.tree.unflatten(structure, leaves)

    def __repr__(self) -> str:
        # For hash_tree: distinguishes relu from tanh, the same in every process.
        return f"Fixed({[(index, described(value)) for index, _, value in self.others]})"


class Adapted(Struct):
    """A function with its weights and options as a model; made by ``from_callable`` and the other adapters.

    Attributes:
        arrays: ``(function, params, options)`` with None for static leaves.  Classes inside keep their
            declarations, such as ``row_keys``.
        fixed: the values of the Nones, static.
        channels_first: whether the function takes [B, C, H, W], static.
    """

    arrays: tuple[Any, Any, Any]
    fixed: Fixed = static(None)
    channels_first: bool = static(False)

    def __call__(self, x: Images, *keys: Keys) -> Logits:
        """Return logits [B, K] of images [B, H, W, C]; keys [B] are passed to a function that takes them."""
        function, params, options = self.fixed.joined(self.arrays)
        given = jnp.moveaxis(x, -1, 1) if self.channels_first else x
        try:
            logits: Logits = function(*params, given, *keys, **options)
            return logits
        except (jax.errors.JAXTypeError, StateChanged):
            raise
        except (TypeError, ValueError) as error:
            wants, other = ("H, W, C", False) if self.channels_first else ("C, H, W", True)
            raise ValueError(
                f"the model fails on images {list(given.shape[1:])} ({shorten(_plain(error), 300)}): if it "
                f"takes [{wants}], pass channels_first={other}; if a vector, flatten inside"
            ) from error


class StateChanged(ValueError):
    """A model changed its state in a forward pass, as in training mode."""


def unchanged(before: Any, after: Any, remedy: str) -> None:
    """Raise StateChanged unless all leaves of a model's state are the same objects after a call as before.

    Evaluation returns unchanged leaves as they are; training creates new batch statistics and random streams.
    """
    was, now = jax.tree.leaves(before), jax.tree.leaves(after)
    if len(was) != len(now) or any(one is not other for one, other in zip(was, now, strict=True)):
        raise StateChanged(f"the model changes its state while it answers, as in training: {remedy}")


def _is_none(node: Any) -> bool:
    return node is None


def _as_array(leaf: Any) -> jax.Array | None:
    """Return a traced leaf as an array, and None for a static one."""
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, np.generic) and not isinstance(leaf, np.inexact):  # sizes and flags
        return None
    if isinstance(leaf, type) or not (hasattr(leaf, "__array__") or hasattr(leaf, "__jax_array__")):
        return None
    try:
        return jnp.array(leaf)  # a copy: the library's own buffer may be overwritten or donated in training
    except TypeError:  # strings and objects
        return None


def _checked(path: Any, leaf: Any) -> Any:
    """Return a static leaf; raise TypeError if it cannot be static, or contains weights."""
    if library_of(leaf) == "Keras":
        raise TypeError(why_no_model(leaf))
    try:
        hash(leaf)
    except TypeError:
        where = jax.tree_util.keystr(path)
        raise TypeError(
            f"{where} of (function, params, options) is {shorten(repr(leaf), 80)}, no array and not "
            "hashable: make it an array, or close over it in a module-level function"
        ) from None
    return leaf


def _plain(error: Exception) -> str:
    """Return an error's text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))

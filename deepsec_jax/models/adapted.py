"""Models of other libraries as pytree callables: what is an array is traced, all else is fixed."""

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
from deepsec_jax.protocols import Images, Logits
from deepsec_jax.pytree import Struct, static


def from_callable(
    function: Callable[..., Logits], *params: Any, channels_first: bool = False, **options: Any
) -> "Adapted":
    """Return the model ``x -> function(*params, x, **options)``.

    Like ``jax.tree_util.Partial(function, *params, **options)``, but only arrays are traced.  Flags
    (``train=False``), numbers, names and functions, anywhere in ``function``, ``params`` and ``options``, are
    fixed: they decide the compiled program.  Other arrays in the place of these hit the compiled attack.  A
    number that is to be traced is given as an array.

        models.from_callable(net.apply, variables, train=False)  # Linen
        models.from_callable(apply, params)                      # plain JAX

    Args:
        function: from images [B, H, W, C] in [0, 1] to raw logits [B, K], not to probabilities (a softmax
            hides the gradient), row by row, in evaluation mode.  One that lives as long as the process is
            compiled once, a fresh lambda at each call.  May be a ``functools.partial``, or a pytree.
        params: pytrees of weights.
        channels_first: whether ``function`` takes images [B, C, H, W]; the model takes [B, H, W, C] anyway.
        options: passed on by name.

    Raises:
        TypeError: no array at all, a model that has an adapter of its own, or a value that cannot be fixed.
        ValueError: a part in training mode.
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
    """Return an :class:`Adapted` of what :func:`from_callable` and its sisters have checked."""
    for part in (function, *params):
        problem = in_training(part)
        if problem is not None:
            raise ValueError(problem)
    if not isinstance(channels_first, bool):
        raise ValueError(f"channels_first must be True or False, got {channels_first!r}")
    paths, structure = jax.tree_util.tree_flatten_with_path(
        (function, params, options), is_leaf=lambda node: node is None
    )
    arrays, others = [], []
    for index, (path, leaf) in enumerate(paths):
        array = _as_array(leaf)
        if array is None:
            others.append((index, type(leaf), _checked(path, leaf)))
        else:
            arrays.append(array)
    if not arrays:
        raise TypeError(
            f"{described(function)} comes without arrays, so that its weights would be baked in: pass them, "
            "as in from_callable(apply, params) with a module-level apply(params, x)"
        )
    return Adapted(tuple(arrays), Fixed(structure, hash(structure), tuple(others)), channels_first)


@dataclass(frozen=True, repr=False)
class Fixed:
    """What is no array in a function with its arguments, and where the arrays go.

    Attributes:
        structure: of ``(function, params, options)``; None counts as a leaf.
        kind: its hash, which tells classes apart that jax takes for one (:class:`Struct`).
        others: position, type and value of every leaf that is no array; 1 and True are not the same.
    """

    structure: jax.tree_util.PyTreeDef
    kind: int
    others: tuple[tuple[int, type, Any], ...]

    def joined(
        self, arrays: tuple[jax.Array, ...]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return function, params and options with the arrays in their places."""
        fixed, rest = {index: value for index, _, value in self.others}, iter(arrays)
        leaves = [
            fixed[index] if index in fixed else next(rest) for index in range(self.structure.num_leaves)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def __repr__(self) -> str:
        # In hash_tree: tells relu from tanh, the same in every process.
        return f"Fixed({self.structure}, {[(index, described(value)) for index, _, value in self.others]})"


class Adapted(Struct):
    """A function with its weights and options as a model; made by ``from_callable`` and its sisters.

    Attributes:
        arrays: all that is traced: weights, statistics, keys.
        fixed: the rest, static.
        channels_first: whether the function takes [B, C, H, W], static.
    """

    arrays: tuple[jax.Array, ...]
    fixed: Fixed = static(None)
    channels_first: bool = static(False)

    def __call__(self, x: Images) -> Logits:
        """Return logits [B, K] of images [B, H, W, C]."""
        function, params, options = self.fixed.joined(self.arrays)
        given = jnp.moveaxis(x, -1, 1) if self.channels_first else x
        try:
            return function(*params, given, **options)
        except (jax.errors.JAXTypeError, StateChanged):
            raise
        except (TypeError, ValueError) as error:
            wants, other = ("H, W, C", False) if self.channels_first else ("C, H, W", True)
            raise ValueError(
                f"the model fails on images {list(given.shape[1:])} ({shorten(_plain(error), 300)}): if it "
                f"takes [{wants}], pass channels_first={other}; if a vector, flatten inside"
            ) from error


class StateChanged(ValueError):
    """A model changed its state while it answered, as it does in training."""


def unchanged(before: Any, after: Any, remedy: str) -> None:
    """Raise StateChanged unless a model's state after a call is, leaf by leaf, the very one before it.

    What evaluation does not touch is handed back as it is; batch statistics and random streams are made anew.
    """
    was, now = jax.tree.leaves(before), jax.tree.leaves(after)
    if len(was) != len(now) or any(one is not other for one, other in zip(was, now, strict=True)):
        raise StateChanged(f"the model changes its state while it answers, as in training: {remedy}")


def _as_array(leaf: Any) -> jax.Array | None:
    """Return what is traced as an array; None of what is fixed."""
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, np.generic) and not isinstance(leaf, np.inexact):  # sizes and flags
        return None
    if isinstance(leaf, type) or not (hasattr(leaf, "__array__") or hasattr(leaf, "__jax_array__")):
        return None
    try:
        return jnp.array(leaf)  # a copy: what the library trains on may be overwritten or given away
    except TypeError:  # strings and objects
        return None


def _checked(path: Any, leaf: Any) -> Any:
    """Return a leaf that is to be fixed; raise TypeError if it cannot be, or hides weights."""
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
    """Return an error's text without the terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))

"""``jax.jit`` for functions that take a model of the caller."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

from deepsec_jax.explicit_meshes import call_automatic
from deepsec_jax.nnx_modules import copied_at_call

T = TypeVar("T")


def jit_per_class(function: Callable[..., T], *, static_argnames: tuple[str, ...] = ()) -> Callable[..., T]:
    """Return ``jax.jit(function)`` that never confuses two classes of its arguments.

    For functions with a model of the caller: jax may confuse two dataclass nodes of jax or flax, see
    :class:`deepsec_jax.pytree.Struct`.  The hash of the classes becomes a static argument.  The function gets
    modules of nnx as :class:`~deepsec_jax.nnx_modules.CopiedAtCall`, and arrays on explicit meshes as on
    automatic ones (``explicit_meshes.py``).

    Args:
        function: to compile.
        static_argnames: static arguments; passed by name only.
    """

    def with_kind(kind: int, *args: Any, **named: Any) -> T:
        del kind
        args, named = copied_at_call((args, named))
        return function(*args, **named)

    with_kind.__name__ = with_kind.__qualname__ = function.__name__  # the name in profilers and logs
    compiled = jax.jit(with_kind, static_argnums=0, static_argnames=static_argnames)

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> T:
        result: T = call_automatic(compiled, kind_of((args, named)), *args, **named)
        return result

    return call


def kind_of(tree: Any) -> int:
    """Return a number that differs if the classes of two pytrees differ, whatever their fields.

    An nnx module is a leaf: jax compares its class, and flattening it costs as much as a call.
    """
    return hash(jax.tree.structure(tree, is_leaf=lambda node: isinstance(node, nnx.Module)))

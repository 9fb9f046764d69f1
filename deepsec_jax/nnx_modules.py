"""Modules of flax.nnx that can be called in any gradient or loop."""

from typing import Any, TypeVar

import jax
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr

from deepsec_jax.pytree import Struct

T = TypeVar("T")


class CopiedAtCall(Struct):
    """An nnx module that is copied at each call, so that it can be called in any gradient or loop.

    ``nnx.scan`` and ``nnx.vmap`` inside a module refuse variables from outside the gradient or loop around
    the call (flax 0.12); the variables of a program's argument always are.  A copy loses what a call writes
    into the module.  A stream of random numbers would give the same numbers at each call, so a module that
    draws from its own streams is refused.

    Attributes:
        model: the module; its attributes and methods are available here, too.
    """

    model: Any

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Return the module's result.

        Raises:
            ValueError: it draws from its own streams, in training or in evaluation mode.
        """
        streams = _streams(self.model)
        if any(streams):
            leaves, structure = jax.tree.flatten(self.model)

            def call(leaves: list[Any], args: Any) -> Any:
                return jax.tree.unflatten(structure, leaves)(*args, **named)

            program = jax.make_jaxpr(call)(leaves, args).jaxpr
            _, used = dce_jaxpr(program, [True] * len(program.outvars))
            if any(stream and use for stream, use in zip(streams, used, strict=False)):
                raise ValueError(
                    "the model draws from its own nnx streams, and every call would draw the same: "
                    "call model.eval(), or draw from keys that row_keys names (docs/your-own-model.md)"
                )
        return self._copy()(*args, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._copy(), name)

    def _copy(self) -> Any:
        return jax.tree.map(lambda leaf: leaf, self.model)


def _streams(tree: Any) -> list[bool]:
    """Return for each leaf whether it is part of an nnx stream of random numbers."""

    def is_stream(node: Any) -> bool:
        return isinstance(node, nnx.RngState)

    parts = jax.tree.leaves(tree, is_leaf=is_stream)
    return [is_stream(part) for part in parts for _ in jax.tree.leaves(part)]


def copied_at_call(tree: T) -> T:
    """Return a pytree with every inner nnx module as a :class:`CopiedAtCall`."""

    def is_module(node: Any) -> bool:
        return isinstance(node, nnx.Module | CopiedAtCall)

    def held(node: Any) -> Any:
        return CopiedAtCall(node) if isinstance(node, nnx.Module) else node

    copied: T = jax.tree.map(held, tree, is_leaf=is_module)
    return copied

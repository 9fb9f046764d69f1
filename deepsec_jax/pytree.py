"""The base class of attacks, defenses and wrapped models, and small tools for pytrees of them."""

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import numpy as np
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr

from deepsec_jax.field_checks import Check, usual

# Most who ask for these ask for Struct as well, so they are to be had from here, too.
from deepsec_jax.randomness import example_keys as example_keys
from deepsec_jax.randomness import is_key as is_key
from deepsec_jax.randomness import is_randomised as is_randomised
from deepsec_jax.randomness import reseed as reseed
from deepsec_jax.randomness import root_key
from deepsec_jax.randomness import typed_key as typed_key

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING, *, check: Check | None = None) -> Any:
    """Declare a dataclass field that decides the compiled program: loop counts, flags, functions.

    Args:
        default: its value where none is given.
        check: of its values (:mod:`deepsec_jax.field_checks`).
    """
    return dataclasses.field(default=default, metadata={"pytree_node": False, "check": check})


def field(
    default: Any = dataclasses.MISSING,
    *,
    check: Check | None = None,
    default_factory: Any = dataclasses.MISSING,
) -> Any:
    """Declare a traced dataclass field; arguments as of :func:`static` and ``dataclasses.field``."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata={"check": check})


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Struct:
    """Base class: a subclass is a frozen dataclass and a pytree node; ``static`` fields are no leaves.

    What ``flax.struct.PyTreeNode`` is, but for one thing.  jax (0.10) takes two classes registered by
    ``jax.tree_util.register_dataclass``, as flax does, for the same where their static fields are equal, and
    only their hashes differ.  Where the first bits of these agree as well, in 9 of 600 pairs and others in
    every process, a jitted function runs the one class's program on the other.  Here the class is
    part of what jax compares.

    Values are checked when an object is made: by the check that a field names, or, in a class with
    ``card`` or ``targets``, by that of its default (:func:`deepsec_jax.field_checks.usual`).  A
    ``__post_init__`` runs afterwards.

    ``derived`` names fields that a class computes from its others.  Their last digits are the machine's, so
    :func:`hash_tree` leaves them out: what is stored under such a hash is found again on another one.
    """

    derived: ClassVar[tuple[str, ...]] = ()
    _checks: ClassVar[tuple[tuple[str, Check], ...]] = ()

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            ValueError: a value that the field cannot mean; one line with class, field, value and remedy.
        """
        for name, check in self._checks:
            value = getattr(self, name)
            try:
                checked = check(value)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}.{name} {error}") from None
            if checked is not value:
                object.__setattr__(self, name, checked)  # frozen, but not yet handed out

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        if (own := cls.__dict__.get("__post_init__")) is not None:
            cls.__post_init__ = _checked_before(own)  # type: ignore[method-assign, assignment]
        # Adds its methods to the class in place; how it prints is decided below.
        dataclasses.dataclass(frozen=True, **{"repr": False, **options})(cls)
        fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
        names = [field.name for field in fields if field.metadata.get("pytree_node", True)]
        statics = [field.name for field in fields if not field.metadata.get("pytree_node", True)]
        keys = [jax.tree_util.GetAttrKey(name) for name in names]
        cls._checks = tuple(
            (field.name, check) for field in fields if (check := _check_of(cls, field)) is not None
        )

        def aside(node: Any) -> tuple[Any, ...]:
            return (cls, *(getattr(node, name) for name in statics))

        def flatten(node: Any) -> tuple[Any, Any]:
            return tuple(getattr(node, name) for name in names), aside(node)

        def flatten_with_keys(node: Any) -> tuple[Any, Any]:
            return tuple((key, getattr(node, key.name)) for key in keys), aside(node)

        def unflatten(aside: Any, children: Any) -> Any:
            return cls(**dict(zip([*names, *statics], [*children, *aside[1:]], strict=True)))

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values in the named fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def __repr__(self) -> str:
        """Return the class with the fields that are not at their default, ``PGD(eps=0.1, steps=40)``."""
        shown = (
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.repr and not _is_default(field, getattr(self, field.name))
        )
        return f"{type(self).__name__}({', '.join(shown)})"


def _checked_before(own: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a ``__post_init__`` that checks the fields first."""

    @functools.wraps(own)
    def after(self: Any) -> None:
        Struct.__post_init__(self)
        own(self)

    return after


def _check_of(kind: type, field: "dataclasses.Field[Any]") -> Check | None:
    check: Check | None = field.metadata.get("check")
    if check is None and (hasattr(kind, "card") or hasattr(kind, "targets")):
        check = usual(field.default, is_static=not field.metadata.get("pytree_node", True))
    return check


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING or isinstance(value, jax.Array | np.ndarray):
        return False
    return type(default) is type(value) and bool(default == value)


def _short(value: Any) -> str:
    """Return a field's value as text: a function by its name, a large array by its shape."""
    if isinstance(value, tuple):
        parts = [_short(part) for part in value]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        number = isinstance(value, np.generic) or value.ndim == 0
        concrete = not isinstance(value, jax.core.Tracer) and not is_key(value)
        return repr(value.item()) if number and concrete else f"{value.dtype}{list(value.shape)}"
    if inspect.isfunction(value):
        return value.__name__
    return repr(value)


def jit_per_class(function: Callable[..., T], *, static_argnames: tuple[str, ...] = ()) -> Callable[..., T]:
    """Return ``jax.jit(function)`` that never takes one class of its arguments for another.

    For functions that take a model of the caller's: one that is a dataclass node of jax's or flax's has the
    fault that ``Struct`` mends.  The classes' hash becomes a static argument.  Modules of nnx come to the
    function as :class:`CopiedAtCall`.

    Args:
        function: what to compile.
        static_argnames: arguments that decide the program; passed by name only.
    """

    def with_kind(kind: int, *args: Any, **named: Any) -> T:
        del kind
        args, named = copied_at_call((args, named))
        return function(*args, **named)

    with_kind.__name__ = with_kind.__qualname__ = function.__name__  # what profilers and logs show
    compiled = jax.jit(with_kind, static_argnums=0, static_argnames=static_argnames)

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> T:
        return compiled(kind_of((args, named)), *args, **named)

    return call


def kind_of(tree: Any) -> int:
    """Return a number that differs where the classes of two pytrees do, whatever their fields.

    An nnx module counts as a leaf: jax compares its class, and looking through it costs as much as a call.
    """
    return hash(jax.tree.structure(tree, is_leaf=lambda node: isinstance(node, nnx.Module)))


class CopiedAtCall(Struct):
    """An nnx module that is copied when it is called, so that it can be called in any gradient or loop.

    ``nnx.scan`` and ``nnx.vmap`` inside a module refuse variables made outside the gradient or loop in which
    it is called (flax 0.12), as those of a program's argument always are.  A copy forgets what a call writes
    into the module.  With a stream of random numbers every call would draw the same ones, so a module that
    draws from its own streams is refused.

    Attributes:
        model: the module; its attributes and methods are to be had from here, too.
    """

    model: Any

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Return what the module does.

        Raises:
            ValueError: it draws from its own streams: it is in training mode, or draws in evaluation mode.
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
    """Return of every leaf whether it is a part of an nnx stream of random numbers."""

    def is_stream(node: Any) -> bool:
        return isinstance(node, nnx.RngState)

    parts = jax.tree.leaves(tree, is_leaf=is_stream)
    return [is_stream(part) for part in parts for _ in jax.tree.leaves(part)]


def copied_at_call(tree: T) -> T:
    """Return a pytree with every nnx module in it as a :class:`CopiedAtCall`."""

    def is_module(node: Any) -> bool:
        return isinstance(node, nnx.Module | CopiedAtCall)

    def held(node: Any) -> Any:
        return CopiedAtCall(node) if isinstance(node, nnx.Module) else node

    return jax.tree.map(held, tree, is_leaf=is_module)


def logits_shape(model: Any, x: Any) -> tuple[int, ...]:
    """Return the shape of the model's logits on ``x`` without computing them.

    Args:
        model: a classifier; a randomised one is given as many keys as ``x`` has rows.
        x: images [B, H, W, C], or their ``jax.ShapeDtypeStruct``.

    Raises:
        TypeError: the model returns no array, or decides by a value that is traced.
    """

    def logits(model: Any, x: jax.Array) -> Any:
        return reseed(copied_at_call(model), jax.random.split(root_key(0), x.shape[0]))(x)

    try:
        found = jax.eval_shape(logits, model, x)
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(_decides(str(error))) from error
    if not hasattr(found, "shape"):
        parts = f"{type(found).__name__} of {len(found)}" if hasattr(found, "__len__") else repr(found)
        raise TypeError(
            f"the model must return logits [B, K], got a {parts}: wrap it in a function that returns the "
            "logits alone (deepsec_jax.models.from_equinox, from_haiku and from_keras drop the state)"
        )
    return tuple(found.shape)


def _decides(message: str) -> str:
    """Return what to do about a model that branches on a traced value, which jax's message names."""
    named = re.search(r"depends on the value of the argument (\S+?)\.?\s", message)
    what = named[1] if named else "a traced value"
    if what.startswith("model"):
        remedy = "pass deepsec_jax.models.from_callable(model), which does not trace flags and sizes"
    else:
        remedy = "use jnp.where in the place of if"
    return f"the model decides by the value of {what}, which is traced: {remedy}"


def rejects(model: Any) -> bool:
    """Tell whether a model can refuse to answer: logits [B, K+1], the last one says "rejected".

    Such a model says so by a class attribute ``rejects``; a wrapper is what the ``model`` that it holds is.
    """
    said = getattr(model, "rejects", None)
    if isinstance(said, bool):
        return said
    inner = getattr(model, "model", None)
    return inner is not None and rejects(inner)


def gives_confidences(model: Any) -> bool:
    """Tell whether the softmax of a model's logits means how sure it is.

    Of shares of votes it does not: all votes for one of ten classes would give it 23 %.  A model without
    confidences says so by a class attribute ``confidences = False``; a wrapper is what the ``model`` that it
    holds is; whoever says nothing has them.
    """
    said = getattr(model, "confidences", None)
    if isinstance(said, bool):
        return said
    inner = getattr(model, "model", None)
    return inner is None or gives_confidences(inner)


def classes_of(model: Any, x: Any) -> int:
    """Return how many classes the model tells apart, "rejected" not counted; see ``logits_shape``."""
    return logits_shape(model, x)[-1] - rejects(model)


def hash_tree(tree: Any) -> Any:
    """Return a SHA-256 over a pytree's structure and leaves: tells models and settings from others.

    What a :class:`Struct` calls ``derived`` is left out.
    """
    if _derives(tree):
        tree = tree.replace(**dict.fromkeys(tree.derived))
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda node: node is not tree and _derives(node))
    # Functions in a structure print with their address, which differs from process to process.
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(structure)).encode())
    for leaf in leaves:
        if _derives(leaf):
            digest.update(hash_tree(leaf).digest())
        else:
            hash_array(digest, np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf))
    return digest


def _derives(node: Any) -> bool:
    return isinstance(node, Struct) and bool(node.derived)


def hash_array(digest: Any, array: np.ndarray) -> None:
    """Add an array's dtype, shape and content to a hash."""
    digest.update(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())

"""Struct, the base class of attacks, defenses and wrapped models."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import jax
import numpy as np

from deepsec_jax.field_checks import Check, usual
from deepsec_jax.randomness import is_key

T = TypeVar("T")


def static(
    default: Any = dataclasses.MISSING, *, check: Check | None = None, only_memory: bool = False
) -> Any:
    """Declare a static dataclass field, which determines the compiled program: loop counts, flags, functions.

    Args:
        default: the default value.
        check: for its values (:mod:`deepsec_jax.field_checks`).
        only_memory: the field divides the work and changes results by rounding only, as a batch size does, so
            it is not part of what names a stored result.
    """
    return dataclasses.field(
        default=default, metadata={"pytree_node": False, "check": check, "only_memory": only_memory}
    )


def field(
    default: Any = dataclasses.MISSING,
    *,
    check: Check | None = None,
    default_factory: Any = dataclasses.MISSING,
) -> Any:
    """Declare a traced dataclass field; arguments as for :func:`static` and ``dataclasses.field``."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata={"check": check})


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Struct:
    """Base class: a subclass is a frozen dataclass and a pytree node; ``static`` fields are not leaves.

    Like ``flax.struct.PyTreeNode``, with one difference.  flax registers classes by
    ``jax.tree_util.register_dataclass``, and jax (0.10) compares two such classes as equal if their static
    fields are; only their hashes differ.  If the first bits of the hashes agree, in 9 of 600 pairs and others
    in every process, a jitted function runs one class's program on the other.  Here jax compares the class,
    too.

    Values are checked when an object is made: by the field's ``check``, or, in a class with ``card`` or
    ``targets``, by the check for its default (:func:`deepsec_jax.field_checks.usual`).  ``__post_init__``
    runs afterwards.

    ``derived`` names fields that a class computes from its others.  Their last digits depend on the machine,
    so :func:`deepsec_jax.hashing.hash_tree` ignores them, and stored results are found on other machines.
    """

    derived: ClassVar[tuple[str, ...]] = ()
    _checks: ClassVar[tuple[tuple[str, Check], ...]] = ()

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            ValueError: a meaningless value; one line with class, field, value and remedy.
        """
        for name, check in self._checks:
            value = getattr(self, name)
            try:
                checked = check(value)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}.{name} {error}") from None
            if checked is not value:
                object.__setattr__(self, name, checked)  # frozen, but nobody has it yet

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        if (own := cls.__dict__.get("__post_init__")) is not None:
            cls.__post_init__ = _checked_before(own)  # type: ignore[method-assign, assignment]
        # Adds its methods to the class in place; ``__repr__`` is defined below.
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
        """Return the class with all fields that differ from their default, ``PGD(eps=0.1, steps=40)``."""
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
    """Return a field's value as text: the name of a function, the shape of a large array."""
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

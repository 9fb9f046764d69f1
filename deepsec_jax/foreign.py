"""Why an object is not a model, and which adapter of ``deepsec_jax.models`` converts it.

Other libraries are recognised by the module names of their classes: none of them is imported here.
"""

from textwrap import shorten
from typing import Any

import jax
import numpy as np
from flax import nnx

_LIBRARIES = {
    "keras.": "Keras",
    "equinox.": "Equinox",
    "haiku.": "Haiku",
    "flax.linen.": "Linen",
    "flax.training.train_state": "Flax",
}
_REMEDIES = {
    "Keras": "pass deepsec_jax.models.from_keras(model)",
    "Haiku": "pass deepsec_jax.models.from_haiku(net, params), with state from_haiku(net, params, state)",
    "Linen": "pass deepsec_jax.models.from_callable(module.apply, variables)",
    "Flax": "pass deepsec_jax.models.from_callable(state.apply_fn, {'params': state.params})",
}


def library_of(thing: Any) -> str | None:
    """Return the library of an object's class or base classes: "Keras", "Equinox" ...; else None."""
    for base in type(thing).__mro__:
        for start, library in _LIBRARIES.items():
            if base.__module__.startswith(start):
                return library
    return None


def why_no_model(model: Any) -> str | None:
    """Return why an object is not a callable pytree of arrays, and the remedy, in one line.

    None for a valid model.  Only structure and types are checked.
    """
    library = library_of(model)
    if library in _REMEDIES:
        return (
            f"model is of {library}'s class {type(model).__name__}, no pytree callable: {_REMEDIES[library]}"
        )
    if not callable(model):
        return f"model must be a pytree callable (images -> logits), got {type(model).__name__}"
    if jax.tree_util.all_leaves([model]):
        return _why_no_pytree(model)
    if all(_is_number(leaf) for leaf in jax.tree.leaves(model, is_leaf=_is_nnx)):
        return None
    return _why_bad_leaf(model)


def in_training(model: Any) -> str | None:
    """Return which part of a model is in training mode, and the remedy, in one line; None if none is.

    Parts are ``nnx`` and Equinox modules anywhere in the pytree.
    """
    for path, leaf in jax.tree.leaves_with_path(model, is_leaf=_is_nnx):
        if _is_nnx(leaf):
            for names, module in nnx.iter_modules(leaf):
                flags = (getattr(module, name, None) for name in ("deterministic", "use_running_average"))
                if any(flag is False for flag in flags):
                    where = ".".join(map(str, names)) or type(module).__name__
                    return f"the model is in training mode ({where}): call model.eval() first"
        elif leaf is False and getattr(path[-1], "name", None) == "inference":  # Equinox's attribute
            where = jax.tree_util.keystr(path[:-1]).lstrip(".") or type(model).__name__
            return f"the model is in training mode ({where}): take equinox.nn.inference_mode(model) first"
    return None


def _why_no_pytree(model: Any) -> str:
    if library_of(getattr(model, "__wrapped__", None)) == "Equinox":
        return (
            "model is a function around an Equinox module (jax.vmap?), whose weights would be baked in: pass "
            "deepsec_jax.models.from_equinox(module), which maps it over the batch"
        )
    what = (
        f"the plain function {model.__name__!r}"
        if hasattr(model, "__name__")
        else f"{_shortly(model)}, no pytree"
    )
    return (
        f"model is {what}, whose weights would be baked in: pass jax.tree_util.Partial(apply, params) or "
        "deepsec_jax.models.from_callable(apply, params) with a module-level apply(params, x)"
    )


def _why_bad_leaf(model: Any) -> str | None:
    """Return the problem of the first leaf that jit does not accept as an array.

    jit accepts a flag (bool).  But Equinox's layers branch on theirs, which fails if it is traced.
    """
    for path, part in jax.tree.leaves_with_path(model, is_leaf=lambda node: _is_nnx(node) or _is_eqx(node)):
        for inner, leaf in jax.tree.leaves_with_path(part, is_leaf=_is_nnx):
            if not (_is_number(leaf) or (isinstance(leaf, bool) and not _is_eqx(part))):
                where, adapter = jax.tree_util.keystr((*path, *inner)), "from_callable(model)"
                if _is_eqx(part):
                    adapter = "from_equinox(module)"
                return (
                    f"the model's leaf {where} is {_shortly(leaf)}, no array: pass "
                    f"deepsec_jax.models.{adapter}, which does not trace what is no array"
                )
    return None


def described(value: Any) -> str:
    """Return a function's module and name, or the ``repr`` of another object."""
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if name else repr(value)


def _shortly(value: Any) -> str:
    return shorten(described(value), 80)


def _is_nnx(node: Any) -> bool:
    return isinstance(node, nnx.Module)


def _is_eqx(node: Any) -> bool:
    return library_of(node) == "Equinox"


def _is_number(leaf: Any) -> bool:
    """Tell whether a leaf may be traced: arrays and numbers, not flags (nnx has no flags as leaves)."""
    traced = isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex)
    return _is_nnx(leaf) or (traced and not isinstance(leaf, bool))

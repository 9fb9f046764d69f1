"""From a pure body to a public attack: the thin check around one jitted function.

What can be seen without values (kind of model, mode, shapes, dtypes, key) is checked while tracing, so
a call that hits the cache pays nothing.  Values (NaN, range, labels) are checked by
:func:`deepsec_jax.attacks.run_in_batches` and the command line, before compute is spent.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.attacks.closest import Counted
from deepsec_jax.attacks.geometry import NORMS
from deepsec_jax.foreign import in_training, why_no_model
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import example_keys, is_key, is_randomised, jit_per_class, logits_shape, rejects

Body = Callable[[Any, Classifier, Images, Labels, Keys | None], Images | Counted]


def attack_call(body: Body) -> Callable[..., Images]:
    """Turn ``body(self, model, x, labels, keys)`` into ``__call__(self, model, x, labels, *, key=None)``.

    The body is compiled once per class and static fields: other weights, hyperparameters and keys hit
    the cache.  No gradient flows through an attack.  A body that returns :class:`Counted` gives its images
    to the caller, and its counts to :func:`count_calls`.
    """

    def compiled(
        self: Any, model: Classifier, x: Images, labels: Labels, key: Key | Keys | None
    ) -> Images | Counted:
        check_shapes(model, x, labels)
        if not x.shape[0]:  # nothing to attack; a model may not even accept it (reshape(0, -1))
            return x
        if key is None and (getattr(self, "needs_key", False) or is_randomised(model)):
            who = "this model" if is_randomised(model) else type(self).__name__
            raise ValueError(f"{who} draws random numbers: pass key=jax.random.key(seed)")
        self, model, x = _constant((self, model, x))
        keys = None if key is None else example_keys(key, x.shape[0])
        return body(self, model, x, labels, keys)

    compiled.__name__ = body.__qualname__.removesuffix(".__call__")  # what profilers and logs show
    run = jit_per_class(compiled)

    @functools.wraps(body)
    def call(
        self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images:
        result = counted(self, model, x, labels, key=key)
        return result.x if isinstance(result, Counted) else result

    def counted(
        self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
    ) -> Images | Counted:
        check_model(model)
        return run(one_float_kind(self), model, jnp.asarray(x), jnp.asarray(labels), key)

    call.counted = counted  # type: ignore[attr-defined]  # found by count_calls
    call.__doc__ = body.__doc__ or "Return adversarial images; see the class and the Attack protocol."
    return call


def count_calls(
    attack: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Counted | None:
    """Return the attack's images with the model calls that each took; None if it does not count.

    The attacks that search count, since their work differs from image to image; the same compiled code
    as the call itself.  Arguments as in the Attack protocol.
    """
    counted = getattr(type(attack).__call__, "counted", None)
    if counted is None:
        return None
    result = counted(attack, model, x, labels, key=key)
    return result if isinstance(result, Counted) else None


def label_targets(
    self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Labels | None:
    """Return the labels if the attack is targeted (they are its targets), else None."""
    del model, x, key
    return labels if self.targeted else None


def check_model(model: Any) -> None:
    """Raise TypeError, with the remedy, for what is no pytree callable with arrays as its leaves."""
    problem = why_no_model(model)
    if problem is not None:
        raise TypeError(problem)


def check_mode(model: Any) -> None:
    """Raise ValueError, with the remedy, for a model in training mode."""
    problem = in_training(model)
    if problem is not None:
        raise ValueError(problem)


def check_shapes(model: Any, x: jax.Array, labels: jax.Array) -> None:
    """Raise ValueError for a model in training mode and for arrays that do not fit together."""
    check_mode(model)
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x must be float images [B, H, W, C] in [0, 1], got {x.dtype}{list(x.shape)}"
            + (": divide uint8 by 255" if x.dtype == jnp.uint8 else "")
        )
    if labels.shape != x.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers [{x.shape[0]}], got {labels.dtype}{list(labels.shape)}"
            + (": use labels.argmax(-1) on one-hot rows" if labels.ndim == 2 else "")
        )
    if not x.shape[0]:
        return
    shape = logits_shape(model, x)
    if len(shape) != 2 or shape[0] != x.shape[0] or shape[1] - rejects(model) < 2:
        wanted = "classes >= 2, and one more" if rejects(model) else "classes >= 2"
        raise ValueError(f"the model must return logits [{x.shape[0]}, {wanted}], got {list(shape)}")


def check_range(images: np.ndarray, *, first: int = 0) -> None:
    """Raise ValueError where an image is not in [0, 1].

    Args:
        images: [N, ...].
        first: the number of the first of them, for the message.
    """
    bad = ~((images >= 0) & (images <= 1)).reshape(len(images), -1).all(axis=1)  # NaN is bad too
    if bad.any():
        row = int(np.argmax(bad))
        values = images[row].astype(np.float32)
        raise ValueError(
            f"image {first + row} has values from {values.min():g} to {values.max():g}: "
            "bring images to [0, 1], without NaN"
        )


OUTSIDE = 1e-3
"""An image is clipped to the box by as much, since resizing and rounding leave values a hair outside."""


def one_float_kind(attack: Any) -> Any:
    """Return the attack with scalars as float32, so that 0.3, np.float64(0.3) and 1 share a compile.

    A model that the attack holds (a surrogate) stays as it is.
    """
    return jax.tree.map(_float32, attack, is_leaf=_is_model)


def _is_model(part: Any) -> bool:
    """Tell a classifier from an attack, which can be called as well, but names its targets."""
    return callable(part) and not hasattr(part, "targets")


def _float32(leaf: Any) -> Any:
    if isinstance(leaf, int | float | np.generic):
        return np.float32(leaf)
    if isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 0 and not is_key(leaf):
        return leaf.astype(np.float32)
    return leaf


def _constant(tree: Any) -> Any:
    """Stop gradients through every float array."""

    def stopped(leaf: Any) -> Any:
        return lax.stop_gradient(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(stopped, tree)


_COUNTS = ("steps", "search_steps", "copies", "passes", "inner_steps", "memory", "queries", "n", "k")


def check_hyperparameters(attack: Any, *, signed: tuple[str, ...] = ()) -> None:
    """Raise at construction for values that no attack can mean; traced values pass unseen.

    Called from ``__post_init__``, which jax also runs with tracers and placeholders in the fields.

    Args:
        attack: the attack.
        signed: fields that may be of either sign, but not 0.
    """
    name = type(attack).__name__
    for field in fields(attack):
        value = getattr(attack, field.name)
        if field.name in _COUNTS:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}.{field.name} must be an integer of at least 1, got {value!r}")
        elif field.name == "norm":
            norms = getattr(attack, "norms", NORMS)
            if value not in norms:
                raise ValueError(f"{name}.norm must be one of {', '.join(norms)}, got {value!r}")
        elif field.name in ("targeted", "abort_early", "warm", "guided", "shrinking"):
            if not isinstance(value, bool):
                raise ValueError(f"{name}.{field.name} must be True or False, got {value!r}")
        elif isinstance(value, str) and not isinstance(field.default, str):
            raise ValueError(f"{name}.{field.name} must be a number, got {value!r}")
        elif field.name in signed and isinstance(value, int | float):
            if not math.isfinite(value) or value == 0:
                raise ValueError(f"{name}.{field.name} must be finite and not 0, got {value!r}")
        elif isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}.{field.name} must be finite and at least 0, got {value!r}")

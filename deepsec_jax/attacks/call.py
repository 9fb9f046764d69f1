"""From a pure body to a public attack: the thin check around one jitted function.

What can be seen without values (kind of model, mode, shapes, dtypes, key) is checked while tracing, so
a call that hits the cache pays nothing.  Numbers are checked where the attack is built, images where it is
called, as far as they lie in the host's memory: looking at an array on a device would wait for it.

=====================  =======================  ====================================================
value                  Python or NumPy          on the device (``jax.Array``)
=====================  =======================  ====================================================
hyperparameters        ValueError, when built   not looked at
images                 ValueError, when called  a row that lies outside [0, 1] comes back as NaN
labels below 0         ValueError, when called  not looked at
labels beyond classes  not looked at            not looked at
=====================  =======================  ====================================================

:func:`deepsec_jax.attacks.run_in_batches` and the command line look at all images and labels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.closest import Counted
from deepsec_jax.attacks.per_image import map_per_image, meeting_images
from deepsec_jax.foreign import in_training, why_no_model
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels
from deepsec_jax.pytree import (
    example_keys,
    is_key,
    is_randomised,
    jit_per_class,
    logits_shape,
    rejects,
)

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
        self = meeting_images(self, x.shape[0])
        if not x.shape[0]:  # nothing to attack; a model may not even accept it (reshape(0, -1))
            return x
        if key is None and (getattr(self, "needs_key", False) or is_randomised(model)):
            who = "this model" if is_randomised(model) else type(self).__name__
            raise ValueError(f"{who} draws random numbers: pass key=jax.random.key(seed)")
        self, model, x = _constant((self, model, x))
        keys = None if key is None else example_keys(key, x.shape[0])
        result = body(self, model, x, labels, keys)
        if isinstance(result, Counted):
            return result._replace(x=nan_where_outside(result.x, x))
        return nan_where_outside(result, x)

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
        check_on_host(x, labels)
        x = jnp.asarray(x)
        return run(one_float_kind(self, x.dtype), model, x, as_labels(labels), key)

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


def is_from_attack_call(attack: Any) -> bool:
    """Tell whether the attack's call was made by :func:`attack_call`, and so takes values per image."""
    return hasattr(type(attack).__call__, "counted")


def label_targets(
    self: Any, model: Classifier, x: Images, labels: Labels, *, key: Key | Keys | None = None
) -> Labels | None:
    """Return the labels if the attack is targeted (they are its targets), else None."""
    del model, x, key
    return as_labels(labels) if self.targeted else None


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


def check_on_host(x: Any, labels: Any) -> None:
    """Raise ValueError for values that no image or label has, where looking at them costs no wait."""
    if isinstance(x, np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating):
        check_range(x)
    if isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer) and (labels < 0).any():
        raise ValueError(f"labels must be classes from 0, got {labels.min()}")


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


def nan_where_outside(x_adv: Images, x: Images) -> Images:
    """Return ``x_adv`` with NaN in the rows whose clean image does not lie in [0, 1].

    Such an image has no ball in the box: one of 0 .. 255 would come back as ones, 254 away.  NaN is no
    figure that anyone could mistake for a result, and writing it does not wait for the device.
    """
    inside = jnp.all((x >= -OUTSIDE) & (x <= 1.0 + OUTSIDE), axis=(1, 2, 3), keepdims=True)
    return jnp.where(inside, x_adv, jnp.nan)


def one_float_kind(attack: Any, images: Any = jnp.float32) -> Any:
    """Return the attack with numbers as float32, so that 0.3, np.float64(0.3) and 1 share a compile.

    A model that the attack holds (a surrogate) stays as it is.

    Args:
        attack: an attack.
        images: dtype of the images.  Beside float64 ones numbers are rounded towards 0: the nearest float32
            to 0.1 lies above it, and no image may lie outside the eps that was asked for.
    """
    rounded = functools.partial(_float32, towards_0=np.dtype(images).itemsize > 4)
    return map_per_image(rounded, attack, lambda leaf: rounded(leaf) if _is_scalar(leaf) else leaf)


def _is_scalar(leaf: Any) -> bool:
    if isinstance(leaf, int | float | np.generic):
        return True
    return isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 0 and not is_key(leaf)


def _float32(value: Any, *, towards_0: bool) -> Any:
    nearest = value.astype(np.float32) if hasattr(value, "astype") else np.float32(value)
    if not towards_0:
        return nearest
    lib: Any = jnp if isinstance(value, jax.Array) else np
    farther = abs(nearest.astype(np.float64)) > abs(value)
    return lib.where(farther, lib.nextafter(nearest, np.float32(0)), nearest)


def _constant(tree: Any) -> Any:
    """Stop gradients through every float array."""

    def stopped(leaf: Any) -> Any:
        return lax.stop_gradient(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(stopped, tree)

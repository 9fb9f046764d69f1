"""Checks of the model, the images and the labels that an attack is called with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.foreign import in_training, why_no_model
from deepsec_jax.model_traits import logits_shape, rejects
from deepsec_jax.protocols import Images


def check_model(model: Any) -> None:
    """Raise TypeError, with the remedy, for an object that is not a callable pytree of arrays."""
    problem = why_no_model(model)
    if problem is not None:
        raise TypeError(problem)


def check_mode(model: Any) -> None:
    """Raise ValueError, with the remedy, for a model in training mode."""
    problem = in_training(model)
    if problem is not None:
        raise ValueError(problem)


def check_shapes(model: Any, x: jax.Array, labels: jax.Array) -> None:
    """Raise ValueError for a model in training mode and for arrays that do not match."""
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
    """Raise ValueError for invalid values of images or labels in host memory."""
    if isinstance(x, np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating):
        check_range(x)
    if isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer) and (labels < 0).any():
        raise ValueError(f"labels must be classes from 0, got {labels.min()}")


def check_eps(attack: Any) -> None:
    """Raise ValueError for an L-inf radius above 1, if it is in the host's memory.

    Images are in [0, 1], so such a radius bounds nothing.  It is almost always meant in units of 0 .. 255.
    """
    eps, card = getattr(attack, "eps", None), getattr(attack, "card", None)
    linf = getattr(attack, "norm", "linf" if card is not None and card.kind == "budget" else "") == "linf"
    if not linf or not isinstance(eps, int | float | np.ndarray | np.generic):
        return
    largest = float(np.max(eps, initial=0.0))
    if largest > 1.0:
        raise ValueError(
            f"{type(attack).__name__}.eps is {largest:g}, but images are in [0, 1]: "
            "give it in these units, such as eps=8 / 255"
        )


class InvalidImage(ValueError):
    """An image outside [0, 1], or with NaN."""


def check_range(images: np.ndarray, *, first: int = 0) -> None:
    """Raise InvalidImage, a ValueError, if an image is not in [0, 1].

    Args:
        images: [N, ...].
        first: index of the first image, for the message.
    """
    bad = ~((images >= 0) & (images <= 1)).reshape(len(images), -1).all(axis=1)  # also finds NaN
    if bad.any():
        row = int(np.argmax(bad))
        values = images[row].astype(np.float32)
        raise InvalidImage(
            f"image {first + row} has values from {values.min():g} to {values.max():g}: "
            "bring images to [0, 1], without NaN"
        )


OUTSIDE = 1e-3
"""Tolerance: resizing and rounding leave values slightly outside [0, 1], and attacks clip them."""


def nan_where_outside(x_adv: Images, x: Images) -> Images:
    """Return ``x_adv`` with NaN in rows with a clean image outside [0, 1].

    Such an image has no ball in the box: one of 0 .. 255 would be returned as ones, at distance 254.  NaN
    cannot be mistaken for a result, and writing it does not wait for the device.
    """
    inside = jnp.all((x >= -OUTSIDE) & (x <= 1.0 + OUTSIDE), axis=(1, 2, 3), keepdims=True)
    return jnp.where(inside, x_adv, jnp.nan)

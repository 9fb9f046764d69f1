"""Traits of a model: the shape of its logits, whether it rejects, whether it has confidences."""

import re
from typing import Any

import jax

from deepsec_jax.nnx_modules import copied_at_call
from deepsec_jax.randomness import reseed, root_key


def logits_shape(model: Any, x: Any) -> tuple[int, ...]:
    """Return the shape of the model's logits on ``x`` without computing them.

    Args:
        model: a classifier; a randomised one gets one key per row of ``x``.
        x: images [B, H, W, C], or their ``jax.ShapeDtypeStruct``.

    Raises:
        TypeError: the model returns no array, or branches on a traced value.
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
    """Return the remedy for a model that branches on a traced value, named by jax's message."""
    named = re.search(r"depends on the value of the argument (\S+?)\.?\s", message)
    what = named[1] if named else "a traced value"
    if what.startswith("model"):
        remedy = "pass deepsec_jax.models.from_callable(model), which does not trace flags and sizes"
    else:
        remedy = "use jnp.where instead of if"
    return f"the model decides by the value of {what}, which is traced: {remedy}"


def rejects(model: Any) -> bool:
    """Tell whether a model can reject: logits [B, K+1], the last one means "rejected".

    Such a model has a class attribute ``rejects = True``.  A wrapper has the trait of its ``model``.
    """
    said = getattr(model, "rejects", None)
    if isinstance(said, bool):
        return said
    inner = getattr(model, "model", None)
    return inner is not None and rejects(inner)


def gives_confidences(model: Any) -> bool:
    """Tell whether the softmax of a model's logits is a confidence.

    The softmax of vote shares is none: all votes for one of ten classes would give it 23 %.  A model without
    confidences has a class attribute ``confidences = False``.  A wrapper has the trait of its ``model``; any
    other model has confidences.
    """
    said = getattr(model, "confidences", None)
    if isinstance(said, bool):
        return said
    inner = getattr(model, "model", None)
    return inner is None or gives_confidences(inner)


def classes_of(model: Any, x: Any) -> int:
    """Return the number of classes, without "rejected"; see :func:`logits_shape`."""
    return logits_shape(model, x)[-1] - rejects(model)

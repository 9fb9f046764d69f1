"""A Keras 3 model as a model."""

import inspect
from typing import Any

import jax.numpy as jnp

from deepsec_jax.foreign import library_of
from deepsec_jax.models.adapted import Adapted, adapted, unchanged
from deepsec_jax.protocols import Images, Logits


def from_keras(model: Any, *, channels_first: bool = False) -> Adapted:
    """Return a model that calls a Keras 3 model on the JAX backend in inference mode.

    Weights and statistics are traced, and copied now.  After more training call ``from_keras(model)`` again;
    the compiled attack is reused.

    A model that ends in a softmax or sigmoid is refused, since probabilities hide the gradient from attacks.
    To get logits, set ``model.layers[-1].activation = keras.activations.linear``, or use
    ``keras.Model(model.inputs, model.layers[-2].output)`` if the softmax is a layer.  In a subclassed model a
    softmax cannot be detected; remove it yourself.

    Args:
        model: a built ``keras.Model``, from images [B, H, W, C] in [0, 1] (scaling is part of it, as
            ``keras.layers.Rescaling``) to raw logits [B, K].
        channels_first: whether it takes images [B, C, H, W]; the model takes [B, H, W, C] anyway.

    Raises:
        TypeError: not a Keras model.
        ValueError: another backend; a model that is not built, or ends in probabilities; when called, one
            that changes its state, as batch statistics and random layers do in training.
    """
    import keras

    if library_of(model) != "Keras" or not isinstance(model, keras.Layer):
        raise TypeError(f"from_keras takes a Keras 3 model, got {type(model).__name__}")
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}: set the environment variable KERAS_BACKEND=jax before "
            "keras is imported"
        )
    if not model.built:
        raise ValueError(f"the Keras model {model.name!r} has no weights yet: call it on a batch first")
    squashed = _squashed(model)
    if squashed is not None:
        raise ValueError(squashed)
    weights = tuple(
        [jnp.copy(variable.value) for variable in variables]  # fit() donates the buffers
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    return adapted(_logits, (KerasModel(model), *weights), {}, channels_first=channels_first)


class KerasModel:
    """A Keras model without its weights; equal only to itself, printed as its architecture."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KerasModel) and self.model is other.model

    def __hash__(self) -> int:
        return id(self.model)

    def __repr__(self) -> str:
        try:
            return f"KerasModel({self.model.to_json()})"
        except (
            AttributeError,
            NotImplementedError,
            TypeError,
            ValueError,
        ):  # a subclass that cannot be saved
            return f"KerasModel({type(self.model).__qualname__})"


def _logits(held: KerasModel, trainable: Any, others: Any, x: Images) -> Logits:
    asks = "training" in inspect.signature(held.model.call).parameters
    mode = {"training": False} if asks else {}  # a subclass's own call may not take the flag
    logits: Logits
    logits, after = held.model.stateless_call(trainable, others, x, **mode)
    unchanged(others, after, "call its layers with training=False, and draw no random numbers")
    return logits


def _squashed(model: Any) -> str | None:
    """Return the remedy for a model whose last layer returns probabilities; None if none is detected."""
    whole = last = model
    while inner := _in_order(last):  # it may end in another model
        whole, last = last, inner[-1]
    activation = getattr(last, "activation", None)
    found = getattr(activation, "__name__", type(last if activation is None else activation).__name__).lower()
    if found.replace("_", "") not in ("softmax", "sigmoid", "hardsigmoid", "sparsemax"):
        return None
    if activation is not None:
        end = "model" if whole is model else f"model.get_layer({whole.name!r})"
        remedy = f"set {end}.layers[-1].activation = keras.activations.linear"
    elif whole is model:
        before = -2 if model.layers[-1] is last else -1  # an operation is not a layer
        remedy = f"take keras.Model(model.inputs, model.layers[{before}].output)"
    else:
        remedy = f"build {whole.name!r} without it"
    return f"the Keras model ends in {found}, and probabilities hide the gradient from attacks: {remedy}"


def _in_order(model: Any) -> list[Any]:
    """Return the layers of a sequential or functional model whose last layer makes its output, else []."""
    import keras

    if isinstance(model, keras.Sequential):
        return list(model.layers)
    return list(getattr(model, "operations", []))

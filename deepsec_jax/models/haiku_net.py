"""A Haiku network as a model."""

import inspect
from typing import Any

from deepsec_jax.foreign import library_of
from deepsec_jax.models.adapted import Adapted, adapted, unchanged
from deepsec_jax.protocols import Logits


def from_haiku(
    net: Any, params: Any, state: Any = None, *, channels_first: bool = False, **options: Any
) -> Adapted:
    """Return the model that applies a Haiku network, without a key.

        net = hk.transform_with_state(forward)
        params, state = net.init(key, x, is_training=True)
        models.from_haiku(net, params, state, is_training=False)

    Args:
        net: result of ``hk.transform`` or ``hk.transform_with_state``, from images [B, H, W, C] in [0, 1] to
            raw logits [B, K], not to probabilities (a softmax at its end hides the gradient).  Transform once
            and reuse it: each ``net`` is compiled separately.
        params: its parameters, traced.
        state: its state, traced, if ``net`` has one.
        channels_first: whether it takes images [B, C, H, W]; the model takes [B, H, W, C] anyway.
        options: keyword arguments such as ``is_training=False``; static unless arrays.

    Raises:
        TypeError: not a transformed function, or a state that is missing or unexpected.
        ValueError: when called, if it changes its state, as in training.
    """
    kind = type(net).__name__
    if library_of(net) != "Haiku" or kind not in ("Transformed", "TransformedWithState"):
        raise TypeError(
            f"from_haiku takes what hk.transform or hk.transform_with_state returned, got {kind}: for "
            "functions there is from_callable(apply, params)"
        )
    stateful = kind == "TransformedWithState"
    if stateful != (state is not None):
        call = "from_haiku(net, params, state)" if stateful else "from_haiku(net, params)"
        raise TypeError(f"net is {kind}: pass {call}")
    weights = (params, state) if stateful else (params,)
    takes_key = list(inspect.signature(net.apply).parameters)[len(weights) :][:1] == ["rng"]
    key = (None,) if takes_key else ()  # hk.without_apply_rng takes no key
    function = _without_new_state if stateful else _applied
    return adapted(function, (net.apply, *weights, *key), options, channels_first=channels_first)


def _applied(apply: Any, *args: Any, **options: Any) -> Logits:
    logits: Logits = apply(*args, **options)
    return logits


def _without_new_state(apply: Any, params: Any, state: Any, *args: Any, **options: Any) -> Logits:
    logits: Logits
    logits, after = apply(params, state, *args, **options)
    unchanged(
        state, after, "pass the flag of evaluation, as in from_haiku(net, params, state, is_training=False)"
    )
    return logits

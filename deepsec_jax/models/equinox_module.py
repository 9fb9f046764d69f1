"""An Equinox module as a model."""

from typing import Any

import jax

from deepsec_jax.foreign import library_of
from deepsec_jax.models.adapted import Adapted, adapted, unchanged
from deepsec_jax.protocols import Images, Keys, Logits


def from_equinox(
    module: Any, state: Any = None, *, batched: bool = False, channels_first: bool = False
) -> Adapted:
    """Return a model that applies an Equinox module, which takes one image, to each image of a batch.

    Arrays are traced; everything else (activations, flags) is static, as in ``equinox.filter_jit``. Another
    module of the same structure reuses the compiled attack.

        models.from_equinox(eqx.nn.inference_mode(module), state, channels_first=True)

    Args:
        module: ``eqx.Module`` in inference mode, from one image to raw logits [K], not to probabilities
            (a softmax at its end, MLP's ``final_activation`` too, hides the gradient: build it without).
        state: ``eqx.nn.State`` of a module with batch statistics, whose call is ``module(image, state) ->
            (logits, state)``.
        batched: whether the module takes a whole batch and returns [B, K].
        channels_first: whether it takes images [C, H, W], as Equinox's convolutions do; the model takes
            [B, H, W, C] anyway.

    Raises:
        TypeError: not an Equinox module, or not an Equinox state.
        ValueError: a layer in training mode, or a state that is missing.
    """
    import equinox as eqx

    if isinstance(module, tuple) and len(module) == 2 and isinstance(module[1], eqx.nn.State):
        raise TypeError("got a pair (module, state): pass from_equinox(module, state)")
    if library_of(module) != "Equinox" or not callable(module):
        raise TypeError(
            f"from_equinox takes an Equinox module that can be called, got {type(module).__name__}: for "
            "functions there is from_callable(apply, params)"
        )
    if state is None:
        nodes = jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
        if any(isinstance(node, eqx.nn.StateIndex) for node in nodes):
            raise ValueError(
                "the module has state (batch statistics): make it by module, state = "
                "eqx.nn.make_with_state(Net)(...) and pass from_equinox(module, state)"
            )
        return adapted(_whole if batched else _each, (module,), {}, channels_first=channels_first)
    if not isinstance(state, eqx.nn.State):
        raise TypeError(f"state must be the eqx.nn.State of the module, got {type(state).__name__}")
    asked = _whole_with_state if batched else _each_with_state
    return adapted(asked, (module, state), {}, channels_first=channels_first)


def _whole(module: Any, x: Images, *keys: Keys) -> Logits:
    logits: Logits = module(x, *keys)
    return logits


def _each(module: Any, x: Images, *keys: Keys) -> Logits:
    logits: Logits = jax.vmap(module)(x, *keys)
    return logits


def _whole_with_state(module: Any, state: Any, x: Images) -> Logits:
    before = jax.tree.leaves(state)  # Equinox invalidates the state itself after use
    logits: Logits
    logits, after = module(x, state)
    unchanged(before, after, "take equinox.nn.inference_mode(module) first")
    return logits


def _each_with_state(module: Any, state: Any, x: Images) -> Logits:
    return jax.vmap(lambda image: _whole_with_state(module, state, image))(x)

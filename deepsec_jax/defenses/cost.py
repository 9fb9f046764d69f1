"""The training cost of a defense per image, in input gradients of the network; for time estimates."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deepsec_jax.data import Dataset, unit_images
from deepsec_jax.defenses.eat import EAT
from deepsec_jax.defenses.igr import IGR
from deepsec_jax.defenses.nat import NAT
from deepsec_jax.defenses.pat import PAT
from deepsec_jax.defenses.pd import PD, bits_objective
from deepsec_jax.defenses.te import TE
from deepsec_jax.randomness import root_key

LEARNING = 2.0
"""A gradient with respect to the parameters costs about two with respect to the image."""


def gradients(defense: Any) -> float:
    """Return the approximate cost of a training, in input gradients per image and epoch."""
    if isinstance(defense, PAT):
        if defense.replays:
            return (LEARNING + 0.5) * defense.replays
        return defense.steps + LEARNING * (1.0 if defense.natural == 0 else 2.0)
    if isinstance(defense, TE) and defense.adversarial:
        return defense.steps + 2 * LEARNING
    if isinstance(defense, NAT | EAT):
        return 1.0 + 2 * LEARNING
    if isinstance(defense, IGR):
        return 2 * LEARNING
    return LEARNING


def pixelcnn_seconds(defense: PD, data: Dataset, *, rows: int) -> float:
    """Time one step of PD's training on the first test images, in seconds per image, without compilation."""
    model: nnx.Module = defense.build(nnx.Rngs(root_key(0)), data.image_shape[2])
    model.train()
    graph, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    x, labels = jnp.asarray(unit_images(data.test.images[:rows])), jnp.asarray(data.test.labels[:rows])

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return bits_objective(nnx.merge(graph, params, rest, copy=True), x, labels, root_key(0))

        return jax.value_and_grad(loss)(params)

    jax.block_until_ready(step(params))
    started = time.perf_counter()
    jax.block_until_ready(step(params))
    return (time.perf_counter() - started) / len(x)

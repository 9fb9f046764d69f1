"""``--batch-size auto``: a fixed size on the CPU, on an accelerator as much as memory permits.

An attack's size there follows from its compiled program: temporaries, arguments and outputs at two sizes give
the bytes per image, and the device states its memory.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks.call import call_and_count
from deepsec_jax.attacks.per_image import at_rows
from deepsec_jax.evaluation.measured import bare_gradient_seconds
from deepsec_jax.placement import parts_of, rows_sharding
from deepsec_jax.protocols import Attack, Classifier
from deepsec_jax.randomness import example_keys, reseed, root_key


class BatchSizeError(ValueError):
    """Not even one image fits into memory; one line with the remedy."""


_CPU_BATCH = 64
_CPU_VALUES = 32 * 32 * 3
"""On a CPU batches of 16 to 64 small images are as fast per image as hundreds; use fewer larger images."""

_SMALLEST, _LARGEST = 16, 4096

_USABLE = 0.8
"""Share of a device's memory for one batch: the next one's images and fragments need the rest."""


def choose(size: int | Literal["auto"], model: Any, image_shape: Sequence[int], n: int) -> int:
    """Return images per call.

    ``auto`` is at most :func:`on_cpu` if jax computes on the CPU, in batches of equal size.  Elsewhere it is
    half of the largest batch for which one gradient fits into memory.

    Args:
        size: a number, or ``auto``.
        model: the model under attack.
        image_shape: height, width, channels.
        n: number of images, the maximum.
    """
    if size != "auto":
        return size
    if jax.default_backend() == "cpu":
        return equal_parts(n, on_cpu(image_shape))
    return largest_fitting(lambda rows: _gradient_fits(model, image_shape, rows), n)


def of_attack(
    attack: Attack,
    model: Classifier,
    image_shape: Sequence[int],
    n: int,
    *,
    otherwise: int,
    limit: int | None = None,
) -> int:
    """Return images per call of an attack on an accelerator, from the memory of its compiled program.

    Args:
        attack: the attack; one that still has to be fitted has no program yet.
        model: the model under attack.
        image_shape: height, width, channels.
        n: number of images, the maximum.
        otherwise: the size if the devices do not state their memory, as a CPU; if weights are split over
            several, or several processes must agree; or if there is no program.
        limit: bytes of one device's memory; by default as the model's device states it.
    """
    limit = memory_of(model) if limit is None else limit
    sharding = rows_sharding(model)
    arrays = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
    whole = all(leaf.is_fully_replicated for leaf in arrays)
    if limit is None or hasattr(attack, "fit") or not whole or jax.process_count() > 1:
        return otherwise
    parts = 1 if sharding is None else parts_of(sharding)
    attack, model = jax.tree.map(_on_one_device, (attack, model))
    per_device = largest_within(
        lambda rows: attack_bytes(attack, model, image_shape, rows), int(_USABLE * limit), -(-n // parts)
    )
    return parts * per_device


def largest_within(bytes_of: Callable[[int], float], limit: int, n: int) -> int:
    """Return a batch size of at most ``n`` and 4096 whose program has at most ``limit`` bytes.

    Two small sizes give the bytes per image.  The size that follows is compiled, and halved until it fits.

    Args:
        bytes_of: memory of the program for this many images.
        limit: in bytes.
        n: number of images.

    Raises:
        BatchSizeError: not even one image fits.
    """
    most = min(_LARGEST, n)
    size = min(_SMALLEST, most)
    at_first = bytes_of(size)
    if at_first <= limit and size < most:
        second = min(2 * size, most)
        each = max(1.0, (bytes_of(second) - at_first) / (second - size))
        size = min(most, size + int((limit - at_first) / each))
    while bytes_of(size) > limit:
        if size == 1:
            raise BatchSizeError("not even one image's attack fits into memory: take a smaller model")
        size //= 2
    return equal_parts(n, size)


def attack_bytes(attack: Attack, model: Classifier, image_shape: Sequence[int], rows: int) -> float:
    """Return the bytes of an attack's program for this many images; infinity if there is too little memory.

    Temporaries, arguments and outputs; the arguments include the weights.
    """
    keys = example_keys(root_key(0), rows)
    run = jax.jit(lambda attack, model, x, labels: call_and_count(attack, model, x, labels, key=keys))
    x = jax.ShapeDtypeStruct((rows, *image_shape), np.float32)
    labels = jax.ShapeDtypeStruct((rows,), np.int32)
    part = at_rows(attack, np.zeros(rows, int))
    try:
        memory = run.lower(reseed(part, keys), reseed(model, keys), x, labels).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return math.inf
        raise
    if memory is None:  # a device that does not tell: the rule of one gradient remains
        return math.inf
    return float(
        memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )  # fmt: skip


def memory_of(model: Any) -> int | None:
    """Return the memory of the smallest device of a model in bytes; None if a device does not state it."""
    devices: set[jax.Device] = {
        device for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)
        for device in leaf.sharding.addressable_devices
    } or {jax.devices()[0]}  # fmt: skip
    stated = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [each for each in stated if each]
    return min(known) if len(known) == len(stated) else None


def _on_one_device(leaf: Any) -> Any:
    """Return a replicated array as its first device has it."""
    copied = isinstance(leaf, jax.Array) and leaf.sharding.num_devices > 1
    return leaf.addressable_shards[0].data if copied else leaf


def on_cpu(image_shape: Sequence[int]) -> int:
    """Return 64 for images of up to 32 x 32 x 3 values, proportionally fewer for larger ones, at least 1."""
    return max(1, min(_CPU_BATCH, _CPU_BATCH * _CPU_VALUES // math.prod(image_shape)))


def equal_parts(n: int, most: int) -> int:
    """Return a size of at most ``most`` with which the last batch needs little padding.

    100 images in batches of at most 64 are two of 50, not two of 64.
    """
    return math.ceil(n / math.ceil(n / most)) if n else 1


def largest_fitting(fits: Callable[[int], bool], n: int) -> int:
    """Double from 16 until memory is exhausted, or 4096 or ``n`` is reached; halve if 16 is too large.

    An attack and its metrics need more memory than one gradient, so half of the largest fitting batch is
    used.

    Args:
        fits: whether a batch of this many images fits.
        n: number of images.

    Raises:
        BatchSizeError: not even one image fits.
    """
    most = min(_LARGEST, n)
    size, refused = min(_SMALLEST, most), False
    while not fits(size):
        if size == 1:
            raise BatchSizeError("not even one image's gradient fits into memory: take a smaller model")
        size, refused = size // 2, True
    while not refused and size < most:
        following = min(2 * size, most)
        refused = not fits(following)
        size = size if refused else following
    return max(1, size // 2) if refused else size


def _gradient_fits(model: Any, image_shape: Sequence[int], rows: int) -> bool:
    images, labels = jnp.zeros((rows, *image_shape)), jnp.zeros(rows, jnp.int32)
    try:
        bare_gradient_seconds(model, images, labels, repeats=1)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return False
        raise
    return True

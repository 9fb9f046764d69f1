"""Run an attack on any number of images, in batches of one size, with bounded memory and one compilation.

This is host code: it streams NumPy arrays, also memory-mapped ones, through the device.  uint8 images are
moved as bytes, a quarter of float32, and divided on the device.

Values are checked once:

===================================  ==========================================================
float arrays in memory               before any computation
memory maps, and what else slices    with each batch as it is read, so the file is read once
uint8                                never: every byte is an image's value
labels                               before any computation
===================================  ==========================================================
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from deepsec_jax.attacks.call import call_and_count
from deepsec_jax.attacks.cost import Counted
from deepsec_jax.attacks.float64 import as_given, is_rounded, narrowed
from deepsec_jax.attacks.model_checks import InvalidImage, check_mode, check_model, check_range
from deepsec_jax.attacks.per_image import at_rows, map_per_image
from deepsec_jax.explicit_meshes import automatic_mesh
from deepsec_jax.jit import jit_per_class
from deepsec_jax.model_traits import classes_of
from deepsec_jax.pixels import from_bytes
from deepsec_jax.placement import on_host, on_mesh, put, rows_axes, rows_sharding, whole_parts
from deepsec_jax.protocols import Attack, Classifier, Key, Keys
from deepsec_jax.randomness import example_keys, reseed, root_key, typed_key

VARYING = "manual ax"
"""Part of jax's message if a value counts as equal on all devices before a step and as different after it."""


def run_in_batches(
    attack: Attack,
    model: Classifier,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    key: Key | Keys | None = None,
    batch_size: int = 128,
    sharding: jax.sharding.Sharding | None = None,
    out: np.ndarray | None = None,
    on_batch: Callable[[int], Any] | None = None,
    on_counts: Callable[[Counted], Any] | None = None,
) -> np.ndarray:
    """Attack all images and return one NumPy array, or fill ``out``.

    The last batch is padded with copies of its last image and cut afterwards: one compilation, and no row's
    result depends on its batch.  While a batch is computed, the previous one is copied back.

    Args:
        attack: the attack; values per image, such as eps [N], are sliced with the images.
        model: a callable pytree in evaluation mode.
        x: float images [N, H, W, C] in [0, 1], or uint8 ones, which mean a 255th of their values as float32;
            anything that slices like NumPy, such as a memory map.  float64 ones are attacked in float32,
            unless ``jax_enable_x64`` is set; the result is float64 and inside eps, and its unchanged entries
            equal those of ``x``.
        labels: integer classes, or targets for a targeted attack, [N].
        key: one key (row i gets ``fold_in(key, i)``) or N keys; needed by random attacks and models.
        batch_size: images per call.  If they do not fit into memory, the rest is computed with half as many,
            with a warning.
        sharding: of a batch over devices, e.g. ``NamedSharding(mesh, P("batch"))``; default as the model
            lies, see :mod:`deepsec_jax.placement`.  The batch size is rounded up to a multiple of their
            number.
        out: array [N, H, W, C] to fill, such as a writable memory map, at least as precise as ``x``; default
            a new one.
        on_batch: called after every batch with the number of images just done.
        on_counts: called after every batch with the model calls of its images, arrays [n], if the attack
            counts them.

    Returns:
        Adversarial images [N, H, W, C] in the dtype of ``x``, float32 for uint8 (``out`` if given).

    Raises:
        ValueError: a value outside [0, 1] or NaN, an invalid label, shapes or dtypes that do not match.  All
            of this is checked before any computation, except for the values of images that are not in memory:
            there the error comes with the first invalid image, and ``out`` has the batches before its own.
    """
    rows, of_bytes = len(x), x.dtype == np.uint8
    made_of = np.dtype(np.float32) if of_bytes else x.dtype
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if out is None:
        out = np.empty(x.shape, made_of)
    elif out.shape != x.shape:
        raise ValueError(f"out has shape {list(out.shape)}, x has {list(x.shape)}: make them equal")
    elif not np.can_cast(made_of, out.dtype):
        raise ValueError(f"out is {out.dtype}, images are {made_of}: rounding would leave the ball")
    _check_per_image(attack, rows)
    streamed = not of_bytes and not _in_memory(x)
    if of_bytes or streamed:
        _check_kinds(x, labels, bytes_too=True)
        _check_classes(model, x, labels)
    else:
        check_values(model, x, labels, batch_size=batch_size)
    if not rows:
        return out
    if key is not None:
        key = typed_key(key)
        if key.shape not in ((), (rows,)):
            raise ValueError(f"key must be one key or {rows} keys, got shape {list(key.shape)}")

    if is_rounded(x):
        attack = narrowed(attack, x.shape[1:])

    sharding = rows_sharding(model) if sharding is None else sharding
    if isinstance(sharding, NamedSharding):  # restored weights are committed to one device
        model = on_mesh(model, sharding)
        attack = map_per_image(lambda values: values, attack, lambda leaf: on_mesh(leaf, sharding))
        batch_size = whole_parts(batch_size, sharding)

    def start(first: int) -> _Started:
        last = min(first + batch_size, rows)
        padding = batch_size - (last - first)
        given = np.asarray(x[first:last])
        if streamed:
            check_range(given, first=first)
        images = _filled(given, padding)
        classes = _filled(np.asarray(labels[first:last]).astype(np.int32), padding)
        part = at_rows(attack, np.minimum(np.arange(first, first + batch_size), rows - 1))
        keys = None
        if key is not None:
            one = key.shape == ()
            keys = example_keys(key, batch_size, first=first) if one else _filled(key[first:last], padding)
        if sharding is not None:
            images, classes, keys = put((images, classes, keys), sharding)
            part = map_per_image(lambda values: put(values, sharding), part)
        # On the device, where the attack's call does not check them again.
        images = from_bytes(images) if of_bytes else jnp.asarray(images)
        kept = given if is_rounded(given) else None
        if isinstance(sharding, NamedSharding):
            made = _per_shard(part, model, images, classes, keys, sharding=sharding)
        else:
            made = call_and_count(part, model, images, classes, key=keys)
        return _Started(first, last, *made, kept)

    def finish(part: _Started) -> None:
        count = part.last - part.first
        made = on_host(part.x_adv)[:count]
        counted = jax.tree.map(lambda leaf: on_host(leaf)[:count], part.counted)
        own = slice(part.first, part.last)
        out[own] = made if part.given is None else as_given(made, part.given)
        if on_counts is not None and counted is not None:
            on_counts(counted)
        if on_batch is not None:
            on_batch(count)

    done, reached = 0, 0
    waiting: list[_Started] = []
    while done < rows:
        try:
            if reached < rows:
                waiting.append(start(reached))
                reached = waiting[-1].last
            if len(waiting) == 2 or reached == rows:
                finish(waiting[0])
                done = waiting.pop(0).last
        except InvalidImage:
            for part in waiting:
                finish(part)
            raise
        except jax.errors.JaxRuntimeError as error:
            smaller = _smaller(batch_size, sharding, error)
            warnings.warn(
                f"{batch_size} images do not fit into memory: going on with {smaller} per call", stacklevel=2
            )
            batch_size, reached = smaller, done
            waiting.clear()
            keys_there = example_keys(root_key(0), batch_size)  # one per row; the attack's own replace them
            model, attack = reseed(model, keys_there), reseed(attack, keys_there)
    return out


class _Started(NamedTuple):
    """A batch that is computed: rows ``first`` to ``last``."""

    first: int
    last: int
    x_adv: jax.Array
    counted: Counted | None
    given: np.ndarray | None  # the images, if the result must be compared with them


def _in_memory(x: Any) -> bool:
    """Tell whether this is an array in memory, and not a view of a file."""
    if not isinstance(x, np.ndarray):
        return isinstance(x, jax.Array)
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return False
        x = x.base
    return True


def _smaller(batch_size: int, sharding: Any, error: jax.errors.JaxRuntimeError) -> int:
    """Return half of a batch size; raise the error if it is not about memory, or nothing is left to halve."""
    smaller = max(1, batch_size // 2)
    if isinstance(sharding, NamedSharding):
        smaller = whole_parts(smaller, sharding)
    if "RESOURCE_EXHAUSTED" not in str(error) or smaller >= batch_size:
        raise error
    return smaller


@partial(jit_per_class, static_argnames=("sharding",))
def _per_shard(
    attack: Attack, model: Classifier, x: jax.Array, labels: jax.Array, keys: Any, *, sharding: NamedSharding
) -> tuple[jax.Array, Counted | None]:
    """Run the attack separately on every device's rows; return images and counts.

    Otherwise an attack that sorts active rows to the front would send rows between devices, and all would
    wait for the slowest.
    """

    def local(attack: Attack, model: Classifier, x: Any, labels: Any, keys: Any) -> Any:
        return call_and_count(attack, model, x, labels, key=keys)

    whole, split = PartitionSpec(), sharding.spec
    attack_specs = map_per_image(lambda values: split, attack, lambda leaf: whole)

    def made(*, checked: bool) -> tuple[jax.Array, Counted | None]:
        result: tuple[jax.Array, Counted | None] = jax.shard_map(
            local,
            mesh=automatic_mesh(sharding.mesh),
            in_specs=(attack_specs, whole, split, split, split),
            out_specs=split,
            axis_names=set(rows_axes(sharding)),  # weights may be split along the others
            check_vma=checked,
        )(attack, model, x, labels, keys)
        return result

    try:
        return made(checked=True)
    except (TypeError, ValueError) as error:
        if VARYING not in str(error):
            raise
        return made(checked=False)  # a loop of the caller's model or attack begins with zeros, say


def _check_per_image(attack: Attack, rows: int) -> None:
    """Raise ValueError for an attack with values per image for another number of images."""

    def check(values: Any) -> Any:
        if len(values) != rows:
            raise ValueError(
                f"{type(attack).__name__} has {values.shape[0]} values in the place of a number, "
                f"x has {rows} images: give one number, or one per image"
            )
        return values

    map_per_image(check, attack)


def _filled(array: Any, padding: int) -> Any:
    """Repeat the last row ``padding`` times."""
    if not padding:
        return array
    return array[np.minimum(np.arange(len(array) + padding), len(array) - 1)]


def check_values(model: Classifier, x: np.ndarray, labels: np.ndarray, *, batch_size: int = 1024) -> None:
    """Check every float image and label once; raise ValueError with the first invalid value and the remedy.

    TypeError for a model that is not a callable pytree.
    """
    _check_kinds(x, labels)
    for first in range(0, len(x), batch_size):
        check_range(np.asarray(x[first : first + batch_size]), first=first)
    _check_classes(model, x, labels)


def _check_kinds(x: np.ndarray, labels: np.ndarray, *, bytes_too: bool = False) -> None:
    """Raise ValueError for arrays of another shape or dtype; no values are read."""
    floats = np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16"
    if x.ndim != 4 or not (floats or (bytes_too and x.dtype == np.uint8)):
        raise ValueError(
            f"x must be float images [N, H, W, C] in [0, 1], got {x.dtype}{list(x.shape)}"
            + (": divide uint8 by 255" if x.dtype == np.uint8 and not bytes_too else "")
        )
    labels = np.asarray(labels)
    if labels.shape != (len(x),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers [{len(x)}], got {labels.dtype}{list(labels.shape)}"
            + (": use labels.argmax(-1) on one-hot rows" if labels.ndim == 2 else "")
        )


def _check_classes(model: Classifier, x: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError for a model in training mode, and for labels that are not classes of it."""
    if not len(x):
        return
    check_model(model)
    check_mode(model)
    sample = jax.ShapeDtypeStruct((1, *x.shape[1:]), np.float32 if x.dtype == np.uint8 else x.dtype)
    classes = classes_of(model, sample)
    labels = np.asarray(labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels range over {low} .. {high}, but the model has classes 0 .. {classes - 1}")

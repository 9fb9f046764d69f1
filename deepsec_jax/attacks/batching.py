"""Any number of images through an attack, in batches of one size, so that memory and compiles are bounded.

This is host code: it streams NumPy arrays (memory-mapped ones too) through the device.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from deepsec_jax.attacks.call import check_mode, check_model, check_range
from deepsec_jax.protocols import Attack, Classifier, Key, Keys
from deepsec_jax.pytree import classes_of, example_keys, jit_per_class, typed_key


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
) -> np.ndarray:
    """Attack all images and return one NumPy array, or fill ``out``.

    The last batch is filled up with copies of its last image and cut afterwards: one compile, and no
    row's result depends on the batch it stands in.  While a batch is computed the one before it is
    copied back.

    Args:
        attack: the attack.
        model: the model, a pytree callable in evaluation mode.
        x: float images [N, H, W, C] in [0, 1]; anything that slices like NumPy, such as a memory map.
        labels: integer classes, or targets for a targeted attack, [N].
        key: one key (row i gets ``fold_in(key, i)``) or N keys; needed by random attacks and models.
        batch_size: images per call.
        sharding: how to lay a batch out over devices, e.g. ``NamedSharding(mesh, P("batch"))``; the
            batch size must divide over them.
        out: array [N, H, W, C] to fill, such as a writable memory map; default a new one.
        on_batch: called after every batch with the number of images just done.

    Returns:
        Adversarial images [N, H, W, C] in the dtype of ``x`` (``out`` if given).

    Raises:
        ValueError: a value outside [0, 1] or NaN, a label that is no class, shapes that do not fit.
            All of it is seen before any compute is spent.
    """
    rows = len(x)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if out is None:
        out = np.empty(x.shape, x.dtype)
    elif out.shape != x.shape:
        raise ValueError(f"out has shape {list(out.shape)}, x has {list(x.shape)}: make them equal")
    check_values(model, x, labels, batch_size=batch_size)
    if not rows:
        return out
    if key is not None:
        key = typed_key(key)
        if key.shape not in ((), (rows,)):
            raise ValueError(f"key must be one key or {rows} keys, got shape {list(key.shape)}")

    if isinstance(sharding, NamedSharding):  # restored weights are bound to one device
        model = jax.device_put(model, NamedSharding(sharding.mesh, PartitionSpec()))

    def start(first: int) -> jax.Array:
        last = min(first + batch_size, rows)
        padding = batch_size - (last - first)
        images = _filled(np.asarray(x[first:last]), padding)
        classes = _filled(np.asarray(labels[first:last]).astype(np.int32), padding)
        keys = None
        if key is not None:
            one = key.shape == ()
            keys = example_keys(key, batch_size, first=first) if one else _filled(key[first:last], padding)
        if sharding is not None:
            images, classes, keys = jax.device_put((images, classes, keys), sharding)
        if isinstance(sharding, NamedSharding):
            return _per_shard(attack, model, images, classes, keys, sharding=sharding)
        return attack(model, images, classes, key=keys)

    def finish(first: int, adversarial: jax.Array) -> None:
        last = min(first + batch_size, rows)
        out[first:last] = np.asarray(adversarial)[: last - first]
        if on_batch is not None:
            on_batch(last - first)

    waiting: tuple[int, jax.Array] | None = None
    for first in range(0, rows, batch_size):
        started = (first, start(first))
        if waiting is not None:
            finish(*waiting)
        waiting = started
    if waiting is not None:
        finish(*waiting)
    return out


@partial(jit_per_class, static_argnames=("sharding",))
def _per_shard(
    attack: Attack, model: Classifier, x: jax.Array, labels: jax.Array, keys: Any, *, sharding: NamedSharding
) -> jax.Array:
    """Run the attack on every device's rows by themselves.

    An attack that sorts live rows to the front would otherwise send rows between devices, and all would
    wait for the slowest.
    """

    def local(attack: Attack, model: Classifier, x: Any, labels: Any, keys: Any) -> Any:
        return attack(model, x, labels, key=keys)

    everywhere, split = PartitionSpec(), sharding.spec
    return jax.shard_map(
        local,
        mesh=sharding.mesh,
        in_specs=(everywhere, everywhere, split, split, split),
        out_specs=split,
        check_vma=False,
    )(attack, model, x, labels, keys)


def _filled(array: Any, padding: int) -> Any:
    """Repeat the last row ``padding`` times."""
    if not padding:
        return array
    return array[np.minimum(np.arange(len(array) + padding), len(array) - 1)]


def check_values(model: Classifier, x: np.ndarray, labels: np.ndarray, *, batch_size: int = 1024) -> None:
    """Look at every image and label once; raise ValueError with the first bad value and the remedy.

    TypeError for a model that is no pytree callable.
    """
    if x.ndim != 4 or not (np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16"):
        raise ValueError(
            f"x must be float images [N, H, W, C] in [0, 1], got {x.dtype}{list(x.shape)}"
            + (": divide uint8 by 255" if x.dtype == np.uint8 else "")
        )
    labels = np.asarray(labels)
    if labels.shape != (len(x),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers [{len(x)}], got {labels.dtype}{list(labels.shape)}"
            + (": use labels.argmax(-1) on one-hot rows" if labels.ndim == 2 else "")
        )
    for first in range(0, len(x), batch_size):
        check_range(np.asarray(x[first : first + batch_size]), first=first)
    if len(x):
        check_model(model)
        check_mode(model)
        sample = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        classes = classes_of(model, sample)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels range over {low} .. {high}, but the model has classes 0 .. {classes - 1}"
            )

"""The table of built-in data sets, and the function that loads any set by name."""

import os
from collections.abc import Callable
from pathlib import Path

from deepsec_jax.data.datasets import DataError, Dataset, npz, tfds_set
from deepsec_jax.data.digits import digits
from deepsec_jax.data.examples import Size
from deepsec_jax.data.folder import folder
from deepsec_jax.data.huggingface import is_saved, saved_to_disk

DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits}
"""Name -> function that returns the set; its docstring names the source.  A new set is one more entry."""


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None, size: Size | None = None) -> Dataset:
    """Load a data set by name or path.

    Args:
        name: a name of :data:`DATASETS`, such as ``digits``; a path ending in ``.npz``; a path with a slash
            (``./photos``), which is a folder of images, one folder per class
            (:func:`deepsec_jax.data.folder.folder`), or a folder that Hugging Face's ``save_to_disk`` has
            written; or the name of any TFDS image classification set (``mnist``, ``cifar10``,
            ``fashion_mnist``, ``svhn_cropped``, ``cifar100``, ...).
        data_dir: folder of the TFDS sets; default TFDS's own (``~/tensorflow_datasets``).
        size: height and width to which folders of images are resized.  Sets that are stored as arrays are
            returned as they are.

    Raises:
        DataError: the set is unknown, not prepared, or malformed.
    """
    if name in DATASETS:
        return DATASETS[name]()
    if name.endswith(".npz"):
        return npz(Path(name))
    if "/" in name or os.sep in name:
        path = Path(name)
        if not path.is_dir():
            raise DataError(f"no folder {path}: give a folder of images with one folder per class")
        return saved_to_disk(path, size) if is_saved(path) else folder(path, size)
    return tfds_set(name, data_dir)

"""The table of built-in data sets, and the function that loads any set by name."""

import os
from collections.abc import Callable
from pathlib import Path

from deepsec_jax.data.datasets import Dataset, npz, tfds_set
from deepsec_jax.data.digits import digits

DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits}
"""Name -> function that returns the set; its docstring names the source.  A new set is one more entry."""


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set by name or path.

    Args:
        name: a name of :data:`DATASETS`, such as ``digits``; a path ending in ``.npz``, or the name of any
            TFDS image classification set (``mnist``, ``cifar10``, ``fashion_mnist``, ...).
        data_dir: folder of the TFDS sets; default TFDS's own (``~/tensorflow_datasets``).

    Raises:
        DataError: the set is unknown, not prepared, or malformed.
    """
    if name in DATASETS:
        return DATASETS[name]()
    if name.endswith(".npz"):
        return npz(Path(name))
    return tfds_set(name, data_dir)

"""The table of data sets that are code, and the one way to load any set by name."""

import os
from collections.abc import Callable
from pathlib import Path

from deepsec_jax.data.datasets import Dataset, npz, tfds_set
from deepsec_jax.data.digits import digits

DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits}
"""Name -> function whose docstring says where the set comes from; a new set is one more."""


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set by name or path.

    Args:
        name: a name of :data:`DATASETS`, such as ``digits``; a path ending in ``.npz``, or the name of any
            TFDS image classification set (``mnist``, ``cifar10``, ``fashion_mnist``, ...).
        data_dir: where TFDS sets lie; default TFDS's own (``~/tensorflow_datasets``).

    Raises:
        DataError: the set is unknown, not prepared, or malformed.
    """
    if name in DATASETS:
        return DATASETS[name]()
    if name.endswith(".npz"):
        return npz(Path(name))
    return tfds_set(name, data_dir)

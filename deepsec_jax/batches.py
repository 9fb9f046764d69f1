"""Rows in batches of one size, so that a whole data set compiles once; host code."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

OnBatch = Callable[[int], Any]
"""Called after every batch with the number of rows just done."""


def silent(rows: int) -> None:
    """Tell nobody."""
    del rows


def batches(rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the indices of each batch [batch_size]; the last batch is filled up with its last row.

    Args:
        rows: number of rows in all.
        batch_size: rows per batch.
    """
    for first in range(0, rows, batch_size):
        yield np.minimum(np.arange(first, first + batch_size), rows - 1)


def in_batches(
    function: Callable[[np.ndarray], dict[str, Any]],
    rows: int,
    batch_size: int,
    on_batch: OnBatch = silent,
) -> dict[str, np.ndarray]:
    """Return what a function says of all rows, name -> array [rows, ...].

    Args:
        function: indices [B] -> name -> array [B, ...]; always called with one batch size.
        rows: number of rows in all; 0 gives no names.
        batch_size: rows per call.
        on_batch: told of the rows of each batch.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for chosen in batches(rows, batch_size):
        for name, values in function(chosen).items():
            parts.setdefault(name, []).append(np.asarray(values))
        on_batch(min(batch_size, rows - int(chosen[0])))
    return {name: np.concatenate(part)[:rows] for name, part in parts.items()}

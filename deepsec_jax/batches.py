"""Rows in batches of one size, so that a whole data set needs one compilation; host code."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

OnBatch = Callable[[int], Any]
"""Called after every batch with its number of rows."""


def silent(rows: int) -> None:
    """Do nothing."""
    del rows


def batches(rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the indices of each batch [batch_size]; the last batch is padded with its last row.

    Args:
        rows: total number of rows.
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
    """Return a function's results on all rows, name -> array [rows, ...].

    Args:
        function: indices [B] -> name -> array [B, ...]; always called with one batch size.
        rows: total number of rows; 0 gives no names.
        batch_size: rows per call.
        on_batch: called with the number of rows of each batch.
    """
    from deepsec_jax.placement import on_host  # here: progress and reports need no jax

    parts: dict[str, list[np.ndarray]] = {}
    for chosen in batches(rows, batch_size):
        for name, values in function(chosen).items():
            parts.setdefault(name, []).append(on_host(values))
        on_batch(min(batch_size, rows - int(chosen[0])))
    return {name: np.concatenate(part)[:rows] for name, part in parts.items()}

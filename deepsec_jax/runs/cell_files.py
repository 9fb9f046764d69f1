"""The files of one cell: its name, and reading with a one-line error for damage."""

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepsec_jax.runs.atomic import StoreError
from deepsec_jax.runs.cells import kind_named, kind_of, words_of


class DamagedError(StoreError):
    """A record that cannot be read any more; one line with the path and the remedy."""


def cell_name(config: Mapping[str, Any]) -> str:
    """Return a readable prefix and 12 hex digits: a hash of the whole config in canonical JSON.

    Args:
        config: plain values; see :class:`deepsec_jax.runs.cells.Cell`.

    Raises:
        ValueError: the config holds NaN or infinity.
        LookupError: it is not the config of a cell.
    """
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    readable = re.sub(r"[^A-Za-z0-9.@_]+", "-", "-".join(words_of(config)))
    return f"{readable[:80]}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DamagedError: truncated, or not a JSON object.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from None
    if not isinstance(values, dict):
        raise damaged(path, "no JSON object")
    return values


def read_config(cell: Path) -> dict[str, Any]:
    """Return the config of a cell's folder.

    Raises:
        DamagedError: truncated, or it does not match the folder's name.
    """
    config = read_json(cell / "config.json")
    try:
        named = cell_name(config)
    except (LookupError, TypeError, ValueError):
        named = "nothing"
    if named != cell.name:
        raise damaged(cell, f"config.json belongs to {named}")
    return config


def check_cell(cell: Path) -> None:
    """Check a cell without reading its arrays.

    Raises:
        DamagedError: a file is missing, truncated or of another cell.
    """
    read_config(cell)
    read_json(cell / "environment.json")
    if not zipfile.is_zipfile(cell / "arrays.npz"):
        raise damaged(cell, "arrays.npz is cut off or missing")


def read_arrays(cell: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a cell's folder.

    Raises:
        DamagedError: truncated, changed, or without an array that :data:`deepsec_jax.runs.cells.KINDS`
            requires.
    """
    kind = kind_named(kind_of(read_config(cell)))
    try:
        with (cell / "arrays.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = (*kind.arrays, *(key for key in kind.optional if key in archive)) or archive.files
            arrays = {key: archive[key] for key in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(cell, f"arrays.npz: {error}") from None
    if len({len(array) for array in arrays.values()}) > 1:
        raise damaged(cell, "arrays.npz: its arrays differ in length")
    return arrays


def read_column(path: Path, rows: int) -> np.ndarray:
    """Return a metric column, float64 [rows].

    Raises:
        DamagedError: truncated, or of another number of images.
    """
    try:
        values: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, str(error)) from None
    if values.shape != (rows,):
        raise damaged(path, f"shape {list(values.shape)} for {rows} images")
    return values


def damaged(path: Path, reason: str) -> DamagedError:
    """Return the error: which record is damaged, how, and the remedy."""
    return DamagedError(f"{path} is damaged ({' '.join(reason.split())}): remove it, and it is made again")

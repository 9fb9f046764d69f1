"""The arrays of a fitted detector, in one file of its folder, together with the guarded network."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from deepsec_jax.defenses.base import DefenseError
from deepsec_jax.placement import leads, together

ARRAYS = "detector.npz"


def keep_arrays(folder: str | os.PathLike[str], **arrays: Any) -> None:
    """Write arrays into a folder atomically, by a temporary path and a rename.

    Args:
        folder: an existing folder.
        arrays: by name; numbers are allowed, such as the threshold and the spread.
    """
    path = Path(folder) / ARRAYS
    aside = path.with_suffix(".tmp")
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    if leads():  # all processes have the same arrays
        with aside.open("wb") as file:
            np.savez(file, **named)
        aside.replace(path)
    together("the detector's arrays are there")


def has_arrays(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder has the arrays of a detector."""
    return (Path(folder) / ARRAYS).is_file()


def kept_arrays(folder: str | os.PathLike[str], *names: str) -> dict[str, np.ndarray]:
    """Return arrays that :func:`keep_arrays` wrote, by name.

    Raises:
        DefenseError: no such file, it is damaged, or an array is missing.
    """
    path = Path(folder) / ARRAYS
    if not path.is_file():
        raise DefenseError(f"no detector in {folder} ({ARRAYS} is missing): fit the detector again")
    try:
        with zipfile.ZipFile(path) as file:
            if (wrong := file.testzip()) is not None:  # every array has a checksum
                raise ValueError(f"the checksum of {wrong} is wrong")
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in names}
    except Exception as error:  # zipfile raises eight kinds of errors for a truncated or changed file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DefenseError(f"{path} is damaged ({reason}): fit the detector again") from None

"""Folders of a defense's further networks: in the end they are inside its own folder, which is then complete.

While a defense is fitted, its own folder does not exist yet. So a further network (an autoencoder, a
PixelCNN) trains in a folder beside it, and is moved in at the end.
"""

import os
from pathlib import Path

from deepsec_jax.placement import leads, together


def part_folder(folder: str | os.PathLike[str], part: str) -> Path:
    """Return where a further network is: ``folder/part``, or ``folder-part`` before the end of the fit."""
    inside = Path(folder) / part
    return inside if inside.is_dir() else _beside(folder, part)


def move_in(folder: str | os.PathLike[str], *parts: str) -> None:
    """Move further networks into the finished folder; those that are inside already stay.

    The processes of ``jax.distributed`` call this together.
    """
    together("the parts are read")
    if leads():
        for part in parts:
            if (beside := _beside(folder, part)).is_dir() and not (Path(folder) / part).exists():
                beside.rename(Path(folder) / part)
    together("the parts are moved")


def _beside(folder: str | os.PathLike[str], part: str) -> Path:
    folder = Path(folder)
    return folder.with_name(f"{folder.name}-{part}")

"""Atomic writes: temporary path, fsync, rename."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StoreError(ValueError):
    """A folder that cannot be read or written; one line with the path and the remedy."""


def write_atomic(
    path: Path, write: Callable[[Path], Any], *, aside: Path | None = None, replace: bool = False
) -> None:
    """Write a file or folder under another name and rename it.

    Args:
        path: its final name.
        write: function of a path with the same last name; writes to it.
        aside: folder for the temporary path, on the same file system, cleared before and after; default a new
            one next to ``path``.
        replace: whether an existing file may be replaced.

    Raises:
        StoreError: ``path`` exists, or the disk is full, read-only or broken.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _cleared(path, aside) as folder:
            written = folder / path.name
            write(written)
            for part in (written, *written.rglob("*")):
                sync(part)
            if path.exists() and not replace:
                raise StoreError(f"{path} exists and is never overwritten: remove it to make it again")
            written.rename(path)
        sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def _cleared(path: Path, aside: Path | None) -> Iterator[Path]:
    if aside is None:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aside-") as folder:
            yield Path(folder)
        return
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_room(folder: Path, bytes_needed: int = 0) -> None:
    """Check before any computation that a folder is writable and has free space; create it if missing.

    Args:
        folder: for results.
        bytes_needed: approximate size of the results.

    Raises:
        StoreError: read-only, no folder, or full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise write_error(folder, error) from error
    if free < bytes_needed:
        raise StoreError(
            f"{folder} has {free / 1e6:,.0f} MB free, but what is missing takes about "
            f"{bytes_needed / 1e6:,.0f} MB: free some space or choose another --run-dir"
        )


def sync(path: Path) -> None:
    """Flush a file's content or a folder's names to disk before the rename."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_error(path: Path, error: OSError) -> StoreError:
    """Return one line: what could not be written, why, and the remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "make it writable or choose another folder"
    else:
        remedy = "check that it is a folder on a working disk with free space"
    reason = error.strerror or str(error)
    return StoreError(
        f"cannot write {path} ({reason}): {remedy}; finished work is kept; run the same command again"
    )

"""A data set from a folder of image files, one folder per class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deepsec_jax.data.datasets import DataError, Dataset
from deepsec_jax.data.examples import Size, from_examples

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"))
"""Suffixes of the files that are read; others are skipped."""

TEST_SHARE = 0.2
"""Share of each class that becomes the test split where the folder has no ``train`` and ``test``."""


def folder(path: Path, size: Size | None = None) -> Dataset:
    """Read ``DIR/train/CLASS/*.png`` and ``DIR/test/CLASS/*.png``, or ``DIR/CLASS/*.png``.

    Classes are numbered in the order of their names.  Without ``train`` and ``test``, 20 % of each class are
    the test split; which ones depends on the number of files only.

    Args:
        path: the folder.
        size: height and width; images of another size are resized (``examples.resized``).

    Raises:
        DataError: no classes, an empty class, a file that is no image, or images of several sizes without
            ``size``.
    """
    halves = [path / "train", path / "test"]
    if all(half.is_dir() for half in halves):
        names = [_classes(half) for half in halves]
        if names[0] != names[1]:
            odd = ", ".join(sorted(set(names[0]) ^ set(names[1])))
            raise DataError(f"{path}: train and test differ in the classes {odd}: give both the same folders")
        files = [
            [(file, label) for label, name in enumerate(names[0]) for file in _images(half / name)]
            for half in halves
        ]
        train, test, classes = files[0], files[1], names[0]
    else:
        classes = _classes(path)
        train, test = _divided([_images(path / name) for name in classes])
    return from_examples(path.resolve().name, _read(train), _read(test), class_names=classes, size=size)


def _classes(path: Path) -> list[str]:
    names = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise DataError(
            f"{path} has {len(names)} class folders: need at least two, as DIR/CLASS/*.png, "
            "or DIR/train/CLASS/*.png and DIR/test/CLASS/*.png"
        )
    return names


def _images(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(
            f"{path} has no image files ({', '.join(sorted(SUFFIXES))}): add some or remove the folder"
        )
    return files


def _divided(classes: list[list[Path]]) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Return the files and labels of the training and of the test split."""
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, files in enumerate(classes):
        if len(files) < 2:
            raise DataError(f"{files[0].parent} has one image: need two, one to train on and one to test on")
        order = np.random.default_rng(0).permutation(len(files))
        held_out = max(1, round(TEST_SHARE * len(files)))
        test += [(files[row], label) for row in sorted(order[:held_out])]
        train += [(files[row], label) for row in sorted(order[held_out:])]
    return train, test


def _read(files: list[tuple[Path, int]]) -> Iterator[tuple[Image.Image, int]]:
    for file, label in files:
        try:
            with Image.open(file) as image:
                image.load()
                yield image, label
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{file} is no readable image ({error}): replace or remove it") from None

"""Image sets as NumPy arrays: digits (embedded), any TFDS set (without TensorFlow), or your own .npz.

Images keep their stored dtype, uint8 or float; :func:`unit_images` converts a batch to float32 in [0, 1].
TFDS sets are decoded once and kept as ``.npy`` files in the cache folder (``$DEEPSEC_CACHE``, else
``~/.cache/deepsec_jax``).
"""

import hashlib
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class DataError(ValueError):
    """A data set that cannot be used; the message is one line with the value and the remedy."""


@dataclass(frozen=True)
class Split:
    """Images [N, H, W, C] (uint8, or float in [0, 1]) and labels [N], any integers, stored as int32."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if np.issubdtype(self.labels.dtype, np.integer):  # a uint8 wraps where it meets 1000 classes
            object.__setattr__(self, "labels", self.labels.astype(np.int32, copy=False))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> "Split":
        """Return the rows in the given order."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """A named image classification set: train and test split, and the names of its classes."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def digest(self) -> str:
        """Return a hash of this set, 16 hex digits, from its labels and some images."""
        content = hashlib.sha256()
        for split in (self.train, self.test):
            few = split.images[:: max(1, len(split) // 1000)]
            for array in (np.asarray(split.labels, np.int64), np.ascontiguousarray(few)):
                content.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
        return content.hexdigest()[:16]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def unit_images(images: np.ndarray) -> np.ndarray:
    """Return float32 images in [0, 1]; uint8 is divided by 255, floats are not scaled."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return np.asarray(images, np.float32)


_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_LARGEST_LABEL = 999_999  # beyond any data set: a larger label is a mistake, not a class


def npz(path: Path) -> Dataset:
    """Read a set of arrays from a file; see :func:`deepsec_jax.data.load`."""
    if not path.is_file():
        raise DataError(f"no file {path}: give the path of an .npz with arrays {', '.join(_NPZ_KEYS)}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is cut off or no .npz: write it again with np.savez")
    try:
        # Opened here, because np.load leaves the file of a broken archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _NPZ_KEYS if key in archive}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise DataError(f"{path} is no readable .npz ({error}): write it again with np.savez") from None
    except ValueError as error:
        raise DataError(
            f"{path} holds pickled objects or is damaged ({error}): save plain arrays with np.savez"
        ) from None
    missing = [key for key in _NPZ_KEYS if not isinstance(arrays.get(key), np.ndarray)]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}: save it with "
            "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
        )
    for half in ("train", "test"):
        _check_split(path, half, arrays[f"x_{half}"], arrays[f"y_{half}"])
    train = Split(arrays["x_train"], arrays["y_train"].astype(np.int32))
    test = Split(arrays["x_test"], arrays["y_test"].astype(np.int32))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{path}: x_train images are {train.images.shape[1:]} but x_test images are "
            f"{test.images.shape[1:]}: bring both to one shape"
        )
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    return Dataset(path.stem, train, test, tuple(str(index) for index in range(classes)))


def _check_split(path: Path, half: str, images: np.ndarray, labels: np.ndarray) -> None:
    where = f"{path}: x_{half}"
    if images.ndim != 4:
        raise DataError(f"{where} has shape {images.shape}: need [N, height, width, channels]")
    if not images.size:
        raise DataError(f"{where} is empty, {images.shape}: need at least one image")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{where} is {images.dtype}: need uint8, or float in [0, 1]")
    if np.issubdtype(images.dtype, np.floating):
        low, high = float(images.min()), float(images.max())
        if not (low >= 0.0 and high <= 1.0):  # also catches NaN
            raise DataError(f"{where} ranges over [{low:g}, {high:g}]: bring floats to [0, 1]")
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"{path}: y_{half} has shape {labels.shape}: need one integer class per image, "
            f"[{len(images)}] (one-hot labels: use y.argmax(1))"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: y_{half} must be integers 0 .. K-1, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > _LARGEST_LABEL:
        raise DataError(f"{path}: y_{half} must be integers 0 .. K-1, got {low} .. {high}")


def cache_dir() -> Path:
    """Return the folder for decoded data sets: ``$DEEPSEC_CACHE`` or ``~/.cache/deepsec_jax``."""
    return Path(os.environ.get("DEEPSEC_CACHE") or Path.home() / ".cache" / "deepsec_jax")


def tfds_set(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    """Read a prepared TFDS set without TensorFlow; see :func:`deepsec_jax.data.load`."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        splits = builder.as_data_source()
    except tfds.core.registered.DatasetNotFoundError:
        raise DataError(
            f"unknown data set {name!r}: use digits, a path to an .npz, a folder of images (written with a "
            f"slash, ./{name}), or a TFDS image classification set "
            "(https://www.tensorflow.org/datasets/catalog/overview#image_classification)"
        ) from None
    except (AssertionError, NotImplementedError, FileNotFoundError, OSError, ValueError):
        raise DataError(
            f"data set {name!r} is not prepared in {data_dir or '~/tensorflow_datasets'}: "
            'pip install "deepsec_jax[prepare]" and deepsec prepare '
            f"{name}, or point --data-dir at a folder where it is"
        ) from None
    features = builder.info.features
    if features is None or "image" not in features or "label" not in features:
        raise DataError(
            f"data set {name!r} has no features image and label: pick an image classification set"
        )
    if "train" not in splits or "test" not in splits:
        raise DataError(f"data set {name!r} has splits {', '.join(splits)}: need train and test")
    full_name = builder.info.full_name
    train, test = (_decoded(splits[half], full_name, half) for half in ("train", "test"))
    return Dataset(name, train, test, tuple(features["label"].names))


def _decoded(source: Any, full_name: str, half: str, chunk: int = 5000) -> Split:
    """Decode one split, or memory-map what an earlier call decoded."""
    folder = cache_dir() / full_name.replace("/", "-") / f"{half}-{len(source)}"
    if not folder.is_dir():
        chunks = [
            source.__getitems__(range(start, min(start + chunk, len(source))))
            for start in range(0, len(source), chunk)
        ]
        rows = [row for rows in chunks for row in rows]
        shapes = {row["image"].shape for row in rows}
        if len(shapes) > 1:
            raise DataError(
                f"{full_name} has images of {len(shapes)} sizes: resize them to one and save an .npz"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
            written = Path(aside) / "split"
            written.mkdir()
            np.save(written / "images.npy", np.stack([row["image"] for row in rows]))
            np.save(written / "labels.npy", np.array([row["label"] for row in rows], np.int32))
            try:
                written.rename(folder)
            except OSError:  # another process was first; its copy is the same
                if not folder.is_dir():
                    raise
    return Split(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy"))

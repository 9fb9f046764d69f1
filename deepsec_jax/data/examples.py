"""A data set from any two iterables of (image, label) pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from deepsec_jax.data.datasets import DataError, Dataset, Split

Size = tuple[int, int]
"""Height and width in pixels."""


def from_examples(
    name: str,
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    class_names: Sequence[str] | None = None,
    size: Size | None = None,
) -> Dataset:
    """Return a data set of two iterables, such as PyTorch, Grain or Hugging Face data sets.

    An example is a pair ``(image, label)``, or a mapping with the keys ``image`` and ``label``.  An image is
    a PIL image, or an array [H, W] or [H, W, C] of uint8 or of floats in [0, 1].  A label is an integer
    0 .. K-1.  All examples are read into memory.

    Args:
        name: of the data set, in tables and reports.
        train: examples to train on.
        test: examples to attack and to measure accuracy on.
        class_names: names of the K classes; default "0" .. "K-1".
        size: height and width; images of another size are resized (:func:`resized`).  By default all images
            must have one size.

    Raises:
        DataError: no examples, images of different sizes or kinds, or labels outside 0 .. K-1.
    """
    halves = {"train": list(_pairs(train, name)), "test": list(_pairs(test, name))}
    colour = any(image.shape[2] == 3 for pairs in halves.values() for image, _ in pairs)
    splits = {half: _split(pairs, f"{name}: {half}", size, colour) for half, pairs in halves.items()}
    shapes = {half: split.images.shape[1:] for half, split in splits.items()}
    if shapes["train"] != shapes["test"]:
        raise DataError(
            f"{name}: images are {shapes['train']} in train and {shapes['test']} in test: give a size"
        )
    largest = max(int(split.labels.max()) for split in splits.values())
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(largest + 1)))
    if largest >= len(names):
        raise DataError(f"{name}: has the label {largest}, but {len(names)} class names: name every class")
    return Dataset(name, splits["train"], splits["test"], names)


def as_pixels(image: Any) -> np.ndarray:
    """Return an image as uint8 or float [H, W, C], with C = 1 for grey and 3 for colour.

    PIL images become uint8: grey ones ("1", "L") stay grey, all others become RGB, without transparency.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    known = pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not known:
        raise DataError(
            f"an image has shape {pixels.shape} and dtype {pixels.dtype}: "
            "need [H, W], [H, W, 1] or [H, W, 3] of uint8, or of floats in [0, 1]"
        )
    return pixels


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Return an image [H, W, C] at another height and width, by Pillow's bilinear filter (with antialiasing).

    The aspect ratio is not kept, and the dtype is.
    """
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        grey = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        smaller = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))
        return smaller.reshape(height, width, pixels.shape[2])
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in np.moveaxis(pixels.astype(np.float32), 2, 0)
    ]
    stacked = np.clip(np.stack(planes, axis=2), 0.0, 1.0)
    return np.asarray(stacked, pixels.dtype)


def _pairs(examples: Iterable[Any], name: str) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield image and label of every example."""
    for number, example in enumerate(examples):
        try:
            image, label = (
                (example["image"], example["label"])
                if isinstance(example, Mapping)
                else (example[0], example[1])
            )
            yield as_pixels(image), label
        except (KeyError, IndexError, TypeError):
            raise DataError(
                f"{name}: example {number} is a {type(example).__name__}: need a pair (image, label), "
                "or a mapping with the keys image and label"
            ) from None
        except DataError as error:
            raise DataError(f"{name}: example {number}: {error}") from None


def _split(pairs: Sequence[tuple[np.ndarray, Any]], where: str, size: Size | None, colour: bool) -> Split:
    """Return the examples as arrays, all of one size."""
    if not pairs:
        raise DataError(f"{where} has no examples: give at least one")
    sizes = sorted({image.shape[:2] for image, _ in pairs})
    if size is None and len(sizes) > 1:
        raise DataError(
            f"{where} has images of {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}: give one "
            "height and width (deepsec train --image-size 32 32)"
        )
    images = [image if size is None else resized(image, size) for image, _ in pairs]
    if colour:  # grey images among colour ones
        images = [np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image for image in images]
    if len({image.dtype for image in images}) > 1:
        raise DataError(f"{where} mixes bytes and floats: give all images in one dtype")
    stacked = np.stack(images)
    if stacked.dtype != np.uint8 and not (stacked.min() >= 0.0 and stacked.max() <= 1.0):  # also catches NaN
        raise DataError(f"{where} ranges over [{stacked.min():g}, {stacked.max():g}]: bring floats to [0, 1]")
    labels = np.array([label for _, label in pairs])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError(f"{where} has labels like {pairs[0][1]!r}: need integers 0 .. K-1")
    return Split(stacked, labels)

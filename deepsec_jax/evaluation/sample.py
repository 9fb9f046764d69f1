"""A random sample of the test split for attacks on defenses, correctly classified or not."""

import hashlib
from dataclasses import dataclass

import numpy as np

from deepsec_jax.data import Split, unit_images
from deepsec_jax.hashing import hash_array


@dataclass(frozen=True)
class Sample:
    """Images of a test split in random order.

    Attributes:
        images: float32 [N, H, W, C] in [0, 1].
        labels: true classes, int32 [N].
        rows: indices into the test split, int32 [N].
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def draw_sample(split: Split, n: int, seed: int) -> Sample:
    """Return the first ``n`` images of a random order; a larger n extends a smaller one."""
    rows = np.random.default_rng(seed).permutation(len(split))[:n]
    return whole(split.take(rows), rows)


def whole(split: Split, rows: np.ndarray | None = None) -> Sample:
    """Return all images of a split in its order; ``rows`` are their indices, by default 0, 1, ..."""
    chosen = np.arange(len(split)) if rows is None else rows
    return Sample(unit_images(split.images), np.asarray(split.labels, np.int32), chosen.astype(np.int32))


def split_name(split: Split) -> str:
    """Return ``test-`` and a hash over all images and labels of a test split."""
    digest = hashlib.sha256()
    hash_array(digest, np.asarray(split.labels))
    for start in range(0, len(split), 4096):
        hash_array(digest, np.asarray(split.images[start : start + 4096]))
    return f"test-{digest.hexdigest()[:16]}"


EXAMPLES = 8
"""Number of example images of each attack or defense."""


def examples_of(labels: np.ndarray) -> list[int]:
    """Return the first image of each class, then further ones; the same images for every attack."""
    _, firsts = np.unique(labels, return_index=True)
    others = np.setdiff1d(np.arange(len(labels)), firsts)
    return [int(index) for index in (*sorted(firsts), *others)][:EXAMPLES]

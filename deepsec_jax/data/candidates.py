"""Candidate sets: the correctly classified test images that attacks are run on, with fixed targets.

A set depends only on the model, the data set, n and the seed.  :func:`stored_candidates` stores it under a
name that is a hash of these.  The target of a row depends only on the seed and the row's index in the test
split.  The set for a smaller n is the beginning of the set for a larger one.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import answered, least_likely, named
from deepsec_jax.data.datasets import DataError, Dataset, Split, unit_images
from deepsec_jax.hashing import hash_array, hash_tree
from deepsec_jax.jit import jit_per_class
from deepsec_jax.model_traits import rejects
from deepsec_jax.protocols import Classifier
from deepsec_jax.randomness import example_keys, reseed, root_key


@dataclass(frozen=True)
class Candidates:
    """Images to attack, and their target classes.

    Attributes:
        images: float32 [N, H, W, C] in [0, 1].
        labels: true classes, int32 [N]; the model predicts each of them on the clean image.
        targets: a random wrong class per image that is not masked, int32 [N].
        least_likely: class with the smallest logit on the clean image, without masked classes, int32 [N].
        rows: indices into the test split, int64 [N].
        seed: of the draw of images and targets.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    least_likely: np.ndarray
    rows: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.images)


def make_candidates(
    predict_logits: Callable[[np.ndarray], Any],
    split: Split,
    n: int,
    seed: int,
    *,
    batch_size: int = 256,
    rejecting: bool = False,
) -> Candidates:
    """Draw ``n`` images of a split that the model classifies correctly.

    An image without an answer (NaN or +inf) is not a candidate.  A class that is masked (-inf) is not a
    target.

    Args:
        predict_logits: logits [B, K] of float32 images [B, H, W, C]; always called with one batch size.
        split: where to draw from.
        n: number of candidates, at least 1.
        seed: of the order of drawing and of the targets.
        batch_size: images per call of ``predict_logits``.
        rejecting: the last logit is not a class but means "rejected"; a rejected image is not a candidate.

    Raises:
        DataError: fewer than ``n`` images are classified correctly, or a label is not a class of the model.
    """
    if n < 1:
        raise DataError(f"n must be at least 1 candidate, got {n}")
    order = np.random.default_rng(seed).permutation(len(split))
    rows: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    found, classes, silent = 0, 0, 0
    for start in range(0, len(split), batch_size):
        drawn = order[start : start + batch_size]
        logits = _logits(predict_logits, unit_images(split.images[drawn]), batch_size)
        classes = logits.shape[1] - rejecting
        _check_labels(split.labels[drawn], classes)
        correct = np.asarray(named(jnp.asarray(logits))) == split.labels[drawn]
        rows.append(drawn[correct])
        kept.append(logits[correct, :classes])
        found += int(correct.sum())
        silent += int(np.sum(~answered(jnp.asarray(logits))))
        if found >= n:
            break
    if found < n:
        raise DataError(
            f"n = {n} candidates asked for, but only {found} of {len(split)} test images are classified "
            f"correctly: take n <= {found}" + _said(silent)
        )
    chosen = np.concatenate(rows)[:n]
    labels = np.asarray(split.labels[chosen], np.int32)
    # One draw per row of the split, so that an image's target does not depend on n or on the model.
    offsets = np.random.default_rng((seed, 1)).integers(1, classes, size=len(split))[chosen]
    logits = np.concatenate(kept)[:n]
    return Candidates(
        images=unit_images(split.images[chosen]),
        labels=labels,
        targets=_possible(labels, offsets, np.isfinite(logits)),
        least_likely=np.asarray(least_likely(jnp.asarray(logits)), np.int32),
        rows=chosen.astype(np.int64),
        seed=seed,
    )


def _logits(predict_logits: Callable[[np.ndarray], Any], images: np.ndarray, batch_size: int) -> np.ndarray:
    padding = batch_size - len(images)
    padded = np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
    logits = np.asarray(predict_logits(padded), np.float32)[: len(images)]
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise DataError(f"the model must return logits [B, K >= 2], got shape {list(logits.shape)}")
    return logits


def _said(silent: int) -> str:
    """Return the addition to an error message if the model gives no answer to some images."""
    return f"; on {silent} of them the model returns NaN or infinite logits: check it" if silent else ""


def _possible(labels: np.ndarray, offsets: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Return the drawn wrong class of each row, or the next possible one, int32 [N].

    Args:
        labels: true classes [N].
        offsets: of the drawn class from the label, 1 .. K-1, [N].
        possible: which classes are not masked, bool [N, K].
    """
    classes = possible.shape[1]
    turns = (offsets[:, None] - 1 + np.arange(classes - 1)[None]) % (classes - 1) + 1  # every wrong class
    in_turn = (labels[:, None] + turns) % classes
    first = np.argmax(np.take_along_axis(possible, in_turn, axis=1), axis=1)
    return np.take_along_axis(in_turn, first[:, None], axis=1)[:, 0].astype(np.int32)


def _check_labels(labels: np.ndarray, classes: int) -> None:
    if labels.max() >= classes:
        raise DataError(
            f"the data set has label {labels.max()}, but the model has classes 0 .. {classes - 1}: "
            "take the data set that the model was trained on"
        )


@jit_per_class
def _forward(model: Classifier, x: jax.Array) -> jax.Array:
    return model(x)


def stored_candidates(
    model: Classifier, dataset: Dataset, n: int, seed: int, folder: str | os.PathLike[str]
) -> Candidates:
    """Return the candidate set of a model and data set; the first call creates it, later calls read it.

    The file is ``candidates-<hash>.npz``; the hash is over the model (structure and weights), the test
    split, n and seed, so another model or set of images gets another file.

    Args:
        model: a pytree callable in evaluation mode; a randomised one is given fixed keys.
        dataset: the data set; candidates come from its test split.
        n: number of candidates.
        seed: of the draw.
        folder: of the sets; created if missing.

    Raises:
        DataError: as for :func:`make_candidates`; or the stored file is damaged.
    """
    path = Path(folder) / candidates_name(model, dataset, n, seed)
    if path.is_file():
        return _read(path)
    candidates = draw_candidates(model, dataset, n, seed)
    _write(path, candidates)
    return candidates


def draw_candidates(model: Classifier, dataset: Dataset, n: int, seed: int) -> Candidates:
    """Return the candidate set of a model and data set; arguments and errors as :func:`stored_candidates`."""

    def predict_logits(images: np.ndarray) -> jax.Array:
        keys = example_keys(root_key(seed), len(images))
        return _forward(reseed(model, keys), jnp.asarray(images))

    return make_candidates(predict_logits, dataset.test, n, seed, rejecting=rejects(model))


def candidates_name(model: Classifier, dataset: Dataset, n: int, seed: int) -> str:
    """Return the file name of a candidate set: a hash over model, test split, n and seed."""
    split, digest = dataset.test, hash_tree(model)
    hash_array(digest, np.asarray(split.labels))
    for start in range(0, len(split), 4096):
        hash_array(digest, np.asarray(split.images[start : start + 4096]))
    digest.update(f"n={n} seed={seed}".encode())
    return f"candidates-{digest.hexdigest()[:16]}.npz"


def _write(path: Path, candidates: Candidates) -> None:
    arrays = {field.name: getattr(candidates, field.name) for field in fields(Candidates)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".candidates-") as aside:
        written = Path(aside) / "candidates.npz"
        np.savez(written, **arrays)
        written.rename(path)  # another process may have been first; its set is the same


def _read(path: Path) -> Candidates:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {field.name: archive[field.name] for field in fields(Candidates) if field.name != "seed"}
            return Candidates(**arrays, seed=int(archive["seed"]))
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it, and it is made again") from None


def training_sample(dataset: Dataset, seed: int) -> np.ndarray:
    """Return training images for fitting an attack, float32 [N, H, W, C].

    A tenth of the training split, as in DEEPSEC, but at least 500 (all, if there are fewer).

    Args:
        dataset: where to draw from.
        seed: of the draw.
    """
    rows = len(dataset.train)
    count = min(rows, max(500, rows // 10))
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    return unit_images(dataset.train.images[chosen])

"""Warnings if a model or a detector gives no answer: number of images and possible cause."""

from collections.abc import Mapping

import numpy as np


def silent_images(arrays: Mapping[str, np.ndarray], name: str = "no_answer") -> int:
    """Return the number of images without an answer in some draw; 0 if the cell does not record it."""
    return int((arrays[name] > 0).sum()) if name in arrays else 0


def silence(who: str, count: int, n: int, what: str) -> list[str]:
    """Return one sentence if a model gives no answer to some images, else nothing.

    Args:
        who: name of the row or model in the table.
        count: images without an answer.
        n: number of all images.
        what: the images.
    """
    if not count:
        return []
    return [
        f"{who}: no answer (NaN or infinite logits) on {count} of n = {n} {what}: they count neither as "
        "correct nor as fooled; look for a logarithm, a division or an overflow in the model."
    ]


def without_number(who: str, scores: np.ndarray, what: str) -> list[str]:
    """Return one sentence if some scores of a detector are NaN, else nothing.

    Args:
        who: the detector.
        scores: float [N].
        what: the images.
    """
    count = int(np.isnan(scores).sum())
    if not count:
        return []
    return [
        f"{who}: the score of {count} of n = {len(scores)} {what} is NaN: they count as flagged; look "
        "for a logarithm, a division or an overflow in the detector or its model."
    ]

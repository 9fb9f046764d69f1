"""What tables say where a model or a detector gives no answer: how many images, and what to look for."""

from collections.abc import Mapping

import numpy as np


def silent_images(arrays: Mapping[str, np.ndarray], name: str = "no_answer") -> int:
    """Return on how many images a cell has no answer, in one draw at least; 0 of a cell that does not say."""
    return int((arrays[name] > 0).sum()) if name in arrays else 0


def silence(who: str, count: int, n: int, what: str) -> list[str]:
    """Return one sentence if a model gives no answer to some images, else nothing.

    Args:
        who: whose figures lack them, as the table calls it.
        count: images without an answer.
        n: of how many.
        what: the images.
    """
    if not count:
        return []
    return [
        f"{who}: no answer (NaN or infinite logits) on {count} of n = {n} {what}: they count neither as "
        "right nor as fooled; look for a logarithm, a division or an overflow in the model."
    ]


def without_number(who: str, scores: np.ndarray, what: str) -> list[str]:
    """Return one sentence if some scores of a detector are no numbers, else nothing.

    Args:
        who: the detector.
        scores: float [N].
        what: the images.
    """
    count = int(np.isnan(scores).sum())
    if not count:
        return []
    return [
        f"{who}: the score of {count} of n = {len(scores)} {what} is no number: they count as flagged; look "
        "for a logarithm, a division or an overflow in the detector or the model that it asks."
    ]

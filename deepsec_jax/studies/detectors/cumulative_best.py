"""Best image over all radii up to eps."""

import numpy as np

from deepsec_jax.metrics.detection_record import flagged, ordered


def cumulative_best(
    scores: np.ndarray, success: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and success [E, N] of the best image over all radii up to each eps.

    A larger ball contains the smaller ones, so an attacker with a larger radius may use any of their images.
    The image that evades (fools the classifier and is not flagged) at the smallest radius is kept.  Until
    there is one, an image that fools is better than one that does not, and a lower score is better.  So the
    evasion of an example never decreases with eps; on a deterministic classifier neither does its success.

    Args:
        scores: of one attack at E increasing radii on the same examples [E, N].
        success: share of draws that fooled the classifier [E, N].
        threshold: the detector's.
    """
    best_scores, best_success = np.array(scores, copy=True), np.array(success, copy=True)
    for new in range(1, len(best_scores)):
        old = new - 1
        evasion = [np.where(flagged(best_scores[at], threshold), 0.0, best_success[at]) for at in (old, new)]
        fools = best_success[new] - best_success[old]
        lower = ordered(best_scores[new]) < ordered(best_scores[old])
        neither = (evasion[0] == 0.0) & (evasion[1] == 0.0)
        better = (evasion[1] > evasion[0]) | (neither & ((fools > 0) | ((fools == 0) & lower)))
        best_scores[new] = np.where(better, best_scores[new], best_scores[old])
        best_success[new] = np.where(better, best_success[new], best_success[old])
    return best_scores, best_success

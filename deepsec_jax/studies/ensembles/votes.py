"""What an ensemble says, from what its members say: pure functions of probabilities per draw.

``members`` are the members' probabilities, float [N, D, K] each, with D draws: 1 of a deterministic model.
Draw d of the ensemble has draw d of each member, or the only one.
"""

from collections.abc import Sequence

import numpy as np


def mean_probabilities(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over the members, [N, D, K]; NaN where a member gives none."""
    return np.asarray(_together(members).mean(axis=0))


def averaged(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the most probable class of the mean probabilities in each draw, int [N, D]; -1 without one."""
    return _named(mean_probabilities(members))


def voted(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the class that most members predict in each draw, int [N, D]; -1 if all give none.

    Among classes with equally many votes the one with the largest mean probability is taken.
    """
    together = _together(members)
    each = _named(together)
    classes = np.arange(together.shape[-1])
    votes = (each[..., None] == classes).sum(axis=0)
    known = ~np.isnan(together).any(axis=-1)
    mean = np.where(known[..., None], together, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)[..., None]
    found = np.argmax(votes + 0.5 * mean, axis=-1)
    return np.where(votes.sum(axis=-1) > 0, found, -1)


def right(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the share of draws with the true class, float64 [N]."""
    return np.asarray((predicted == labels[:, None]).mean(axis=1), np.float64)


def confidence(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean probability of the predicted class, a mean over draws, float64 [N]."""
    return np.asarray(mean_probabilities(members).max(axis=-1).mean(axis=-1), np.float64)


def _together(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return all members' probabilities with equally many draws, float64 [M, N, D, K]."""
    draws = max(member.shape[1] for member in members)
    return np.stack([
        np.broadcast_to(member, (member.shape[0], draws, member.shape[2])) if member.shape[1] == 1 else member
        for member in members
    ]).astype(np.float64)  # fmt: skip


def _named(probabilities: np.ndarray) -> np.ndarray:
    unknown = np.isnan(probabilities).any(axis=-1)
    return np.where(unknown, -1, np.argmax(np.where(unknown[..., None], 0.0, probabilities), axis=-1))

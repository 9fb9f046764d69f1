"""The nine attacks, and everybody's images judged in one place on our model."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from subjects import Subject

from deepsec_jax.evaluation import judge

NINE = ("fgsm", "rfgsm", "bim", "pgd", "umifgsm", "llc", "rllc", "illc", "tmifgsm")


class Verdicts(NamedTuple):
    """What the judge says of all rows of a subject."""

    success: np.ndarray  # float [N], 0 or 1
    linf: float  # largest change of any entry
    nan_rows: int  # rows that are not finite; they count as failures

    @property
    def percent(self) -> float:
        """Success rate in percent."""
        return 100.0 * float(self.success.mean())


def judge_rows(subject: Subject, attack: Any, x_adv: np.ndarray, *, model: Any = None) -> Verdicts:
    """Judge adversarial images of all rows of a subject, in batches.

    Args:
        subject: clean images and their labels.
        attack: says which class each row was driven to.
        x_adv: images [N, H, W, C].
        model: judge and source of the targets; default the subject's own.
    """
    model = subject.model if model is None else model
    labels = subject.attack_labels(attack)
    broken = ~np.isfinite(x_adv).all(axis=(1, 2, 3))
    x_adv = np.where(broken[:, None, None, None], subject.images, x_adv)
    hits, largest = [], 0.0
    for start in range(0, len(x_adv), 100):
        rows = slice(start, start + 100)
        x = jnp.asarray(subject.images[rows])
        targets = attack.targets(model, x, jnp.asarray(labels[rows]))
        true = jnp.asarray(subject.labels[rows])
        outcome = judge(model, x, jnp.asarray(x_adv[rows]), true, targets=targets)
        hits.append(np.asarray(outcome.success) * ~broken[rows])
        largest = max(largest, float(np.max(np.asarray(outcome.linf))))
    return Verdicts(np.concatenate(hits), largest, int(broken.sum()))

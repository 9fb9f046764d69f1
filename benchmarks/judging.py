"""The nine attacks, and everybody's images judged in one place on our model."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.subjects import Subject, answers
from deepsec_jax.attacks.optmargin import copies_noise
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


class Closeness(NamedTuple):
    """What is said of the images of a search for the smallest change."""

    success: np.ndarray  # bool [N]
    distance: np.ndarray  # float [N], in the norm that was asked for
    faults: dict[str, int]  # rows that are not finite, black, unchanged, outside [0, 1]


def judge_search(subject: Subject, attack: Any, x_adv: np.ndarray, norm: str) -> Closeness:
    """Judge the images that a search found for the first ``len(x_adv)`` rows of a subject.

    A row that is not finite, is the clean image, or is all zero (how some libraries say that they failed)
    is no success, whatever the model answers.  Images are brought into the box first.

    Args:
        subject: clean images and their labels.
        attack: says which class each row was driven to, and beta for the elastic net.
        x_adv: images [n, H, W, C].
        norm: ``l0`` (entries), ``l1``, ``l2``, ``linf``, or ``en`` (||.||_2^2 + beta ||.||_1).
    """
    rows = len(x_adv)
    clean = subject.images[:rows]
    outside = (np.abs(x_adv - np.clip(x_adv, 0, 1)) > 1e-6).any(axis=(1, 2, 3))
    x_adv = np.clip(x_adv, 0, 1)
    change = np.abs(x_adv.astype(np.float64) - clean).reshape(rows, -1)
    broken = ~np.isfinite(change).all(axis=1)
    black = (x_adv == 0).all(axis=(1, 2, 3)) & (clean > 0).any(axis=(1, 2, 3))
    unchanged = (change <= 1e-6).all(axis=1)
    few = replace(subject, images=clean, labels=subject.labels[:rows], targets=subject.targets[:rows])
    success = judge_rows(few, attack, x_adv).success.astype(bool) & ~(broken | black | unchanged)
    squared, l1 = (change**2).sum(axis=1), change.sum(axis=1)
    distance = {
        "l0": (change > 1e-6).sum(axis=1).astype(float), "l1": l1, "l2": np.sqrt(squared),
        "linf": change.max(axis=1), "en": squared + float(getattr(attack, "beta", 0.0)) * l1,
    }[norm]  # fmt: skip
    faults = {"not finite": broken, "black": black, "unchanged": unchanged, "outside the box": outside}
    return Closeness(success, distance, {name: int(rows.sum()) for name, rows in faults.items()})


def noisy_share(subject: Subject, attack: Any, x_adv: np.ndarray, success: np.ndarray) -> float:
    """Return how much of OptMargin's neighbourhood is misclassified, in percent.

    Args:
        subject: the model and its labels.
        attack: an OptMargin.
        x_adv: its images [n, H, W, C].
        success: the rows to look at, bool [n]; each under noises that the attack has not seen.
    """
    if not success.any():
        return float("nan")
    shape = x_adv.shape[1:]
    keys = jax.random.split(jax.random.key(1000), len(x_adv))
    noise = np.asarray(copies_noise(keys, shape, copies=attack.copies, noise=attack.noise))[:, :-1]
    noisy = (x_adv[:, None] + noise)[success]
    classes = answers(subject.model, noisy.reshape(-1, *shape).astype(np.float32)).reshape(len(noisy), -1)
    return 100.0 * float((classes != subject.labels[: len(x_adv)][success, None]).mean())

"""Attacks on one candidate set, measured from outside: the rows of a results table.

Success is a share of all n candidates.  Distances are over the images that succeeded, as in the paper,
and so come with their own count.  Time is split into compilation and the rest.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from deepsec_jax.attacks import (
    JSMA,
    UAP,
    DeepFool,
    Perturbation,
    Restarts,
    count_calls,
    prepare,
    run_in_batches,
)
from deepsec_jax.catalog import versions
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.clock import compile_clock
from deepsec_jax.evaluation.judge import judge
from deepsec_jax.protocols import Attack, Classifier, Key
from deepsec_jax.pytree import Struct, example_keys, reseed, static


@dataclass(frozen=True)
class Distance:
    """Median and mean over the successful images; NaN where there is none."""

    median: float
    mean: float


@dataclass(frozen=True)
class Row:
    """One attack on one candidate set.

    Attributes:
        attack: name of the preset, e.g. ``pgd``.
        goal: ``untargeted`` or ``targeted``; a targeted success is a hit of the target.
        hyperparameters: field -> plain value, nested attacks written out.
        n: number of candidates; the base of both success rates.
        success: share of n whose goal is reached by the attack, in [0, 1].
        success_8bit: the same after rounding the images to 8 bits.
        successes: number of images the distances are over.
        l2: Euclidean norm of the change.
        linf: largest change of an entry.
        l0: share of changed entries, in [0, 1].
        seconds: wall time of the attack on all n, without compilation.
        compile_seconds: wall time of tracing and compilation, 0 where an earlier call had compiled.
        gradients: gradients of the model per image, the mean where an attack counts; None if not known.
        forwards: forward passes per image beside those in the gradients; None if not known.
        fit_seconds: wall time of fitting the attack to training images (UAP), compilation and all.
        no_answer: images on which the model gives no answer (NaN or +inf), in one draw at least: neither
            right nor fooled.
        clean_error: share of n whose goal is reached on the clean image, in [0, 1]; no success counts it.
    """

    attack: str
    goal: str
    hyperparameters: dict[str, Any]
    n: int
    success: float
    success_8bit: float
    successes: int
    l2: Distance
    linf: Distance
    l0: Distance
    seconds: float
    compile_seconds: float
    gradients: float | None
    forwards: float | None = None
    fit_seconds: float = 0.0
    no_answer: int = 0
    clean_error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; NaN becomes None."""
        values = asdict(self)
        for name in ("l2", "linf", "l0"):
            values[name] = {key: None if math.isnan(v) else v for key, v in values[name].items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """Rebuild a row from :meth:`to_dict`."""
        distances = {
            name: Distance(**{key: math.nan if v is None else v for key, v in values[name].items()})
            for name in ("l2", "linf", "l0")
        }
        return cls(**{**values, **distances})


@dataclass(frozen=True)
class Result:
    """A row with the images behind it.

    Attributes:
        row: the figures.
        x_adv: adversarial images, float32 [N, H, W, C].
        targets: classes the images were driven to, int32 [N]; -1 for an untargeted attack.
        predicted: classes the model finds on the adversarial images, in most draws (of a success, of those
            that succeeded), int32 [N]; K for "rejected", -1 without an answer.
        confidence: softmax probability of these classes, a mean over the same draws, float32 [N]; NaN without
            an answer, and of a model without confidences.
        success: 1 or 0; on a randomised model a share of draws; float32 [N].
        probabilities: softmax on the adversarial images, a mean over draws on a randomised model, float32
            [N, K]; NaN of a model without confidences.
        no_answer: 1 where the model gives no answer (NaN or +inf), else 0; or a share of draws; float32 [N].
    """

    row: Row
    x_adv: np.ndarray
    targets: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    success: np.ndarray
    probabilities: np.ndarray
    no_answer: np.ndarray


def run_attack(
    name: str,
    attack: Attack,
    model: Classifier,
    candidates: Candidates,
    *,
    key: Key,
    train_images: Callable[[], np.ndarray] = lambda: np.zeros((0, 1, 1, 1), np.float32),
    batch_size: int = 128,
    on_batch: Callable[[int], Any] | None = None,
) -> Result:
    """Run one attack on all candidates and measure it.

    A targeted attack is given the candidates' targets; any other is given the true labels.

    Args:
        name: name of the preset.
        attack: the attack.
        model: the model under attack.
        candidates: what to attack.
        key: root of everything that is drawn.
        train_images: gives the images that a UAP is fitted to; called only for an attack that is fitted.
        batch_size: images per call.
        on_batch: called after every batch with the number of images just done.
    """
    batch_size = min(batch_size, len(candidates))
    model = reseed(model, example_keys(key, batch_size))  # one key per row of a batch, whatever it had
    started, described = time.perf_counter(), attack
    if hasattr(attack, "fit"):
        attack = prepare(attack, model, train_images(), key=key)
    fit_seconds = time.perf_counter() - started if attack is not described else 0.0
    targeted = bool(getattr(attack, "targeted", False))
    labels = candidates.targets if targeted else candidates.labels
    counter = _Counter(attack, [])
    started = time.perf_counter()
    with compile_clock() as compile_seconds:
        x_adv = run_in_batches(
            counter, model, candidates.images, labels, key=key, batch_size=batch_size, on_batch=on_batch
        )
    seconds = time.perf_counter() - started
    counted = counter.means(len(candidates))
    targets = _targets(attack, model, candidates.images, labels, key, batch_size)
    judged = _judge(model, candidates, candidates.images, x_adv, targets, batch_size)
    rounded = _judge(model, candidates, to_8bit(candidates.images), to_8bit(x_adv), targets, batch_size)
    successful = judged["success"] >= 0.5
    row = Row(
        attack=name,
        goal="untargeted" if targets is None else "targeted",
        hyperparameters=hyperparameters(described),
        n=len(candidates),
        success=float(judged["success"].mean()),
        success_8bit=float(rounded["success"].mean()),
        successes=int(successful.sum()),
        l2=_distance(judged["l2"][successful]),
        linf=_distance(judged["linf"][successful]),
        l0=_distance(judged["l0"][successful]),
        seconds=max(0.0, seconds - compile_seconds()),
        compile_seconds=compile_seconds(),
        gradients=gradients(attack) if counted is None else counted.gradients,
        forwards=forwards(attack) if counted is None else counted.forwards,
        fit_seconds=fit_seconds,
        no_answer=int((judged["no_answer"] > 0).sum()),
        clean_error=float(judged["before"].mean()),
    )
    return Result(
        row=row,
        x_adv=x_adv,
        targets=np.full(len(candidates), -1, np.int32) if targets is None else targets,
        predicted=judged["predicted"],
        confidence=judged["confidence"],
        success=judged["success"],
        probabilities=judged["probabilities"],
        no_answer=judged["no_answer"],
    )


class _Calls(NamedTuple):
    forwards: float
    gradients: float


class _Counter(Struct):
    """An attack that keeps the counts of every batch; host code.

    Attributes:
        attack: what is run.
        parts: list of the forwards and gradients [B] of each batch so far, one for all copies, static.
    """

    attack: Attack
    parts: Any = static(())

    def targets(self, model: Classifier, x: Any, labels: Any, *, key: Any = None) -> Any:
        return self.attack.targets(model, x, labels, key=key)

    def __call__(self, model: Classifier, x: Any, labels: Any, *, key: Any = None) -> Any:
        counted = count_calls(self.attack, model, x, labels, key=key)
        if counted is None:
            return self.attack(model, x, labels, key=key)
        self.parts.append((counted.forwards, counted.gradients))
        return counted.x

    def means(self, rows: int) -> _Calls | None:
        """Return calls per image over the first ``rows`` rows; None for an attack that does not count."""
        if not self.parts:
            return None
        forwards, gradients = (
            np.concatenate([np.asarray(p) for p in part])[:rows] for part in zip(*self.parts, strict=True)
        )
        return _Calls(float(forwards.mean()), float(gradients.mean()))


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1] rounded to the 256 levels that a picture file can hold."""
    return (np.round(images * np.float32(255)) / np.float32(255)).astype(np.float32)


def hyperparameters(attack: Any) -> dict[str, Any]:
    """Return field -> plain value of an attack: functions by name, nested attacks written out.

    ``Restarts`` shows the fields of what it repeats and ``restarts``, as a preset names them.
    """
    if isinstance(attack, Restarts):
        return {**hyperparameters(attack.attack), "restarts": attack.n}
    return {field.name: _plain(getattr(attack, field.name)) for field in fields(attack)}


def described(attack: Any) -> dict[str, Any]:
    """Return what a config says of an attack: ``class``, ``hyperparameters``, ``versions``."""
    return {
        "class": class_of(attack), "hyperparameters": hyperparameters(attack), "versions": versions(attack)
    }  # fmt: skip


def class_of(attack: Any) -> str:
    """Return the name of an attack's class; of ``Restarts``, that of what it repeats."""
    return type(attack.attack if isinstance(attack, Restarts) else attack).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if is_dataclass(value):
        inner = ", ".join(f"{name}={part}" for name, part in hyperparameters(value).items())
        return f"{type(value).__name__}({inner})"
    return getattr(value, "__name__", type(value).__name__)


def gradients(attack: Any) -> int | None:
    """Return the gradients per image of an attack whose work is the same for every image; else None."""
    if isinstance(attack, Restarts):
        each = gradients(attack.attack)
        return None if each is None else each * attack.n
    if isinstance(attack, Perturbation):
        return 0
    card = getattr(attack, "card", None)
    if card is None or card.kind != "budget":
        return None
    return int(getattr(attack, "steps", 1))


def most_gradients(attack: Any, size: int) -> int | None:
    """Return the most gradients per image that an attack can take; None if that is not known.

    Args:
        attack: the attack.
        size: entries of an image.
    """
    if isinstance(attack, JSMA):
        return (int(float(attack.gamma) * size / 2) + 1) * (2 if attack.saliency == "logits" else 1)
    if isinstance(attack, DeepFool):
        return attack.steps * attack.k
    if isinstance(attack, UAP):
        return 0
    if hasattr(attack, "search_steps") and hasattr(attack, "steps"):
        return int(attack.search_steps * attack.steps * getattr(attack, "copies", 1))
    return gradients(attack)


def forwards(attack: Any) -> int | None:
    """Return the forward passes per image beside those in the gradients; None if not known.

    More than one step ends with one, for the last iterate; finding the least likely class costs one (on a
    deterministic model), and so does judging each restart.
    """
    if isinstance(attack, Restarts):
        each = forwards(attack.attack)
        return None if each is None else (each + 1) * attack.n
    steps = gradients(attack)
    if not steps:
        return steps
    finds_its_target = attack.card.goal == "targeted" and not hasattr(attack, "targeted")
    return int(steps > 1) + int(finds_its_target)


def _batches(rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield row indices in batches of one size; the last one is filled up with its last row."""
    for first in range(0, rows, batch_size):
        yield np.minimum(np.arange(first, first + batch_size), rows - 1)


def _targets(
    attack: Attack, model: Classifier, x: np.ndarray, labels: np.ndarray, key: Key, batch_size: int
) -> np.ndarray | None:
    keys = example_keys(key, len(x))
    parts = []
    for rows in _batches(len(x), batch_size):
        part = attack.targets(model, x[rows], labels[rows], key=keys[rows])
        if part is None:
            return None
        parts.append(np.asarray(part, np.int32))
    return np.concatenate(parts)[: len(x)]


def _judge(
    model: Classifier, candidates: Candidates, x: np.ndarray, x_adv: np.ndarray, targets: np.ndarray | None,
    batch_size: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    names = ("success", "before", "predicted", "confidence", "probabilities", "no_answer", "l0", "l2", "linf")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for rows in _batches(len(candidates), batch_size):
        outcome = judge(
            model, x[rows], x_adv[rows], candidates.labels[rows],
            targets=None if targets is None else targets[rows], first=int(rows[0]),
        )  # fmt: skip
        for name in names:
            parts[name].append(np.asarray(getattr(outcome, name)))
    return {name: np.concatenate(part)[: len(candidates)] for name, part in parts.items()}


def _distance(values: np.ndarray) -> Distance:
    if not len(values):
        return Distance(math.nan, math.nan)
    return Distance(float(np.median(values)), float(values.mean()))

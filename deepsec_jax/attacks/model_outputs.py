"""One look at a model before an attack: what makes attacks weak, or their figures false, without an error.

This is host code.  It knows the protocol of a model and no model.  It returns sentences; whoever calls it
prints them, or warns.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import answered
from deepsec_jax.attacks.batching import check_values
from deepsec_jax.attacks.call import check_model, check_shapes
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Logits
from deepsec_jax.pytree import jit_per_class
from deepsec_jax.randomness import example_keys, reseed, root_key

ROWS = 16
"""Images of one look; a defended model may be slow."""

CONTRAST = 0.1
"""Images whose values all lie within so much of [0, 1] were scaled wrongly."""

SAME, ALONE = 0.01, 0.05
"""Answers count as different from this share of a row's range of logits on: of one program, and of a batch of
another size, whose sums are rounded in another order (in half precision by a few percent)."""

ROUNDING = 1e-3
"""Rounding, as a share of the largest logit: what may differ in any case."""


def check_model_outputs(
    model: Classifier,
    images: Any,
    labels: Any,
    *,
    key: Key | None = None,
    gradients: bool = True,
) -> list[str]:
    """Return what is wrong with a model or its images, each with the remedy; nothing if all is well.

        for finding in attacks.check_model_outputs(model, x, labels):
            warnings.warn(finding)

    It looks at the first :data:`ROWS` images, by about ten forwards and one gradient.  It finds

    - outputs that are probabilities, integers, NaN or infinite (-inf is a masked class and no fault), on the
      images and on the same ones with some entries at 0 and 1, where attacks go;
    - a gradient that is zero, missing or no number;
    - answers that differ between two calls, though the model declares no randomness;
    - answers that depend on the other images of the batch, on the place in it, or on its size;
    - images that fill less than a tenth of [0, 1].

    It cannot see numbers that are the same in every call: a dropout mask from one fixed key is a constant,
    and the model looks deterministic.  Nor can it see a gradient that is there and leads nowhere; the tables
    of ``deepsec evaluate defenses`` look for that.  With one image alone it cannot see what depends on the
    batch.

    Args:
        model: a classifier in evaluation mode; one that declares its randomness is asked under fixed keys.
        images: clean images, float [N >= 1, H, W, C] in [0, 1].
        labels: their classes, integers [N].
        key: decides the draws of a randomised model; default a fixed one.
        gradients: whether gradients of this very model will be followed; False where a surrogate is
            differentiated in its place, or none at all.

    Raises:
        TypeError: the model is no pytree callable.
        ValueError: it is in training mode, or images and labels are none that an attack would take.
    """
    check_model(model)
    first, classes = np.asarray(images[:ROWS]), np.asarray(labels[:ROWS])
    if not len(first):
        raise ValueError("there are no images to look at: give at least one")
    x = jnp.asarray(first)
    check_shapes(model, x, jnp.asarray(classes))
    check_values(model, first, classes)
    keys = example_keys(root_key(0) if key is None else key, len(first))
    look = _Look(model, x, jnp.asarray(classes.astype(np.int32)), keys)
    followed = _gradient_findings(look) if gradients else []
    return [*_range_findings(first), *_output_findings(look), *_sameness_findings(look, keys), *followed]


class _Look:
    """A model's answers to a batch, and what they are compared with; host arrays, float64."""

    def __init__(self, model: Classifier, x: Images, labels: Labels, keys: Keys) -> None:
        self.model, self.x, self.labels, self.keys = model, x, labels, keys
        self.kind, self.logits = self.ask(x, keys)

    def ask(self, x: Images, keys: Keys) -> tuple[Any, np.ndarray]:
        """Return the dtype of the logits, and the logits [B, K] or [B, K+1]."""
        logits = _forward(self.model, x, keys)
        return logits.dtype, np.asarray(logits).astype(np.float64)

    @property
    def classes(self) -> np.ndarray:
        """The logits of the classes, without "rejected"."""
        return np.asarray(class_logits(self.model, jnp.asarray(self.logits, jnp.float32)))


@jit_per_class
def _forward(model: Classifier, x: Images, keys: Keys) -> Logits:
    return reseed(model, keys)(x)


@jit_per_class
def _gradient(model: Classifier, x: Images, labels: Labels, keys: Keys) -> Images:
    drawn = reseed(model, keys)

    def loss(point: Images) -> tuple[jax.Array, None]:
        logits = open_logits(drawn, drawn(point.astype(x.dtype)), labels, targeted=False)
        return logit_gap(logits, labels), None

    return value_and_gradient(loss, x.astype(jnp.float32))[2]


def _range_findings(x: np.ndarray) -> list[str]:
    low, high = float(x.min()), float(x.max())
    if high - low >= CONTRAST:
        return []
    return [
        f"All values of the first {len(x)} images lie between {low:.3g} and {high:.3g}, but images fill the "
        "range [0, 1], in which eps counts. Integers of 0 and 1, or of 0 to 16, look so when they are "
        "divided by 255: divide them by their own largest value."
    ]


def _output_findings(look: _Look) -> list[str]:
    found, rows = [], len(look.logits)
    silent = ~_answered(look.logits)
    if silent.any():
        found.append(
            f"The model gives no answer (NaN or infinite logits) on {silent.sum()} of n = {rows} clean "
            "images. They count neither as right nor as fooled. Look for a logarithm, a division or an "
            "overflow."
        )
    at_edges = ~_answered(look.ask(_at_edges(look.x), look.keys)[1]) & ~silent
    if at_edges.any():
        found.append(
            f"The model gives no answer (NaN or infinite logits) on {at_edges.sum()} of n = {rows} images "
            "once some of their entries are 0 or 1, where attacks go. These images count neither as right "
            "nor as fooled. Look for a logarithm of a pixel or a division by one, and keep its argument "
            "away from 0."
        )
    if not jnp.issubdtype(look.kind, jnp.floating):
        found.append(
            f"The outputs are integers ({look.kind}), so there is no gradient. Return the scores that they "
            "were made of, as floats."
        )
    elif _are_probabilities(look) and not _are_one_hot(look):
        found.append(
            "The outputs are probabilities: each row lies in [0, 1] and sums to 1. Attacks are made for "
            "logits, and on probabilities they are weak without any sign of it. Return what goes into the "
            "softmax, or the logarithm of the probabilities."
        )
    return found


def _are_probabilities(look: _Look) -> bool:
    """Tell whether all rows that are answers are distributions, and not declared to be votes."""
    if not _declares_confidences(look.model):
        return False
    rows = look.classes[_answered(look.logits)]
    rounding = 0.02 if jnp.finfo(look.kind).bits < 32 else 1e-3
    return bool(len(rows)) and bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1.0) <= rounding).all())


def _are_one_hot(look: _Look) -> bool:
    """Tell whether an argmax was taken: its missing gradient is the finding then."""
    return bool(np.isin(look.classes[_answered(look.logits)], (0.0, 1.0)).all()) and not _has_gradient(look)


def _declares_confidences(model: Any) -> bool:
    """Return False for a model of vote shares, which says so by an attribute ``confidences``."""
    said = getattr(model, "confidences", None)
    if isinstance(said, bool):
        return said
    inner = getattr(model, "model", None)
    return inner is None or _declares_confidences(inner)


def _sameness_findings(look: _Look, keys: Keys) -> list[str]:
    """Return where an image's answer is not the image's alone; the first finding explains the others."""
    again = look.ask(look.x, keys)[1]
    if gap := _most_differ(look.logits, again, SAME):
        return [
            f"Two calls on the same images differ, by {gap} of the range of the logits. The model draws "
            "random numbers that it does not declare, or keeps a state. Let it draw from one key per row, "
            "which attacks and judge can replace (docs/your-own-model.md)."
        ]
    rows = len(look.x)
    few = np.arange(rows) % min(3, rows)  # the first three images, again and again
    if gap := _most_differ(look.logits[few], look.ask(look.x[few], keys[few])[1], SAME):
        return [
            f"The answer to an image depends on the other images of its batch, by {gap} of the range of the "
            "logits. A BatchNorm in training mode does so: call model.eval(), or pass "
            "use_running_average=True or train=False."
        ]
    back = np.arange(rows)[::-1]
    if gap := _most_differ(look.logits[back], look.ask(look.x[back], keys[back])[1], SAME):
        return [
            f"The answer to an image depends on its place in the batch, by {gap} of the range of the logits. "
            "Look for random numbers that one key draws for the whole batch, or for axes mixed up."
        ]
    if rows == 1:
        return []
    singly = [look.ask(look.x[at : at + 1], keys[at : at + 1])[1] for at in range(min(3, rows))]
    if gap := _most_differ(look.logits[: len(singly)], np.concatenate(singly), ALONE):
        return [
            f"The answer to an image depends on the size of its batch, by {gap} of the range of the logits. "
            "Look for numbers that np.random draws while the program is traced: they are others in every "
            "program."
        ]
    return []


def _gradient_findings(look: _Look) -> list[str]:
    asked = _answered(look.logits)
    rows = int(asked.sum())
    if not rows or not jnp.issubdtype(look.kind, jnp.floating):
        return []  # said already
    try:
        gradient = _gradients_of(look)[asked]
    except Exception as error:  # whatever a user's model raises while it is differentiated
        line = " ".join(str(error).split())[:200]
        return [
            f"No gradient can be taken ({type(error).__name__}: {line}). Attacks that follow gradients will "
            "fail. Attack a surrogate that has one (attacks.Transfer), or search without (attacks.Square)."
        ]
    found = []
    broken = ~np.isfinite(gradient)
    if broken.any():
        found.append(
            f"The gradient of {broken.any(axis=1).sum()} of n = {rows} images has entries that are NaN or "
            "infinite, and attacks take them for 0. Look for a square root, a logarithm or a division at 0, "
            "and keep its argument away from 0 with a jnp.where inside it."
        )
    none = ~np.any(np.where(broken, 0.0, gradient) != 0.0, axis=1)
    if none.all():
        found.append(
            f"The gradient by the image is zero for all n = {rows} images, as votes, an argmax, a rounding "
            "or a saturated softmax make it. Attacks that follow gradients say nothing about this model. "
            "Attack a surrogate that has a gradient (attacks.Transfer), or search without (attacks.Square)."
        )
    elif none.any():
        found.append(
            f"The gradient by the image is zero for {none.sum()} of n = {rows} images, so attacks that "
            "follow it leave them as they are. Look for what saturates: a softmax or a sigmoid at the end, "
            "a clipping."
        )
    return found


def _gradients_of(look: _Look) -> np.ndarray:
    """Return the gradient of each image's loss, float [B, D]."""
    return np.asarray(_gradient(look.model, look.x, look.labels, look.keys)).reshape(len(look.x), -1)


def _has_gradient(look: _Look) -> bool:
    try:
        return bool(np.nan_to_num(_gradients_of(look)).any())
    except Exception:
        return False


def _answered(logits: np.ndarray) -> np.ndarray:
    return np.asarray(answered(jnp.asarray(logits, jnp.float32)))


def _at_edges(x: Images) -> Images:
    """Return the images with a quarter of their entries at 0 and another at 1, the same ones every time."""
    dice = jnp.asarray(np.random.default_rng(0).random(x.shape, np.float32))
    return jnp.where(dice < 0.25, 0.0, jnp.where(dice > 0.75, 1.0, x)).astype(x.dtype)


def _most_differ(first: np.ndarray, second: np.ndarray, share: float) -> str:
    """Return by how much the answers of most rows differ, in words; empty if those of most do not.

    Of most, for a single one may be rounded across an edge inside the model: of a quantiser, or of a vote.
    """
    finite = np.isfinite(first) & np.isfinite(second)
    apart = np.where(finite, np.abs(np.where(finite, first, 0.0) - np.where(finite, second, 0.0)), 0.0)
    alike = finite | (first == second) | (np.isnan(first) & np.isnan(second))
    apart = np.where(alike, apart, np.inf).max(axis=1)
    high, low = (np.where(np.isfinite(first), first, end) for end in (-np.inf, np.inf))
    span = np.maximum(high.max(axis=1) - low.min(axis=1), 0.0)
    largest = np.max(np.abs(np.where(np.isfinite(first), first, 0.0)), axis=1)
    differ = apart > share * span + ROUNDING * largest
    if differ.mean() <= 0.5:
        return ""
    usual = float(np.median(apart[differ] / np.maximum(span[differ], 1e-30)))
    return f"{100 * usual:.3g} %" if np.isfinite(usual) else "NaN or infinity"

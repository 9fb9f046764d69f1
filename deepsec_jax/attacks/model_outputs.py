"""A check of a model before an attack, for mistakes that make attacks weak or figures wrong without an error.

This is host code.  It uses only the protocol of a model, and returns sentences; the caller prints them or
warns.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import answered
from deepsec_jax.attacks.batching import check_values
from deepsec_jax.attacks.gradient import value_and_gradient
from deepsec_jax.attacks.losses import logit_gap
from deepsec_jax.attacks.model_checks import check_model, check_shapes
from deepsec_jax.attacks.rejection import class_logits, open_logits
from deepsec_jax.jit import jit_per_class
from deepsec_jax.model_traits import gives_confidences
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Logits
from deepsec_jax.randomness import example_keys, reseed, root_key

ROWS = 16
"""Number of checked images; a defended model may be slow."""

CONTRAST = 0.1
"""Images whose values span less than this share of [0, 1] were scaled wrongly."""

SAME, ALONE = 0.01, 0.05
"""Outputs differ if they differ by more than this share of a row's range of logits: within one program, and
with another batch size, which changes the order of rounding (by a few percent in half precision).
"""

ROUNDING = 1e-3
"""Allowed rounding error, as a share of the largest logit."""


def check_model_outputs(
    model: Classifier,
    images: Any,
    labels: Any,
    *,
    key: Key | None = None,
    gradients: bool = True,
) -> list[str]:
    """Return problems of a model or its images, each with the remedy; empty if there is none.

        for finding in attacks.check_model_outputs(model, x, labels):
            warnings.warn(finding)

    It checks the first :data:`ROWS` images, with about ten forwards and one gradient.  It finds

    - outputs that are probabilities, integers, NaN or infinite (-inf is a masked class and no fault), on the
    images and on the same ones with some entries at 0 and 1, as in attacks;
    - a gradient that is zero, missing or NaN;
    - outputs that differ between two calls, although the model declares no randomness;
    - outputs that depend on the other images of the batch, on the position in it, or on its size;
    - images that fill less than a tenth of [0, 1].

    It cannot detect random numbers that are the same in every call, such as a dropout mask from one fixed
    key.  Nor can it detect a misleading gradient; the tables of ``deepsec evaluate defenses`` check for that.
    With a single image it cannot detect a dependence on the batch.

    Args:
        model: a classifier in evaluation mode; one that declares its randomness gets fixed keys.
        images: clean images, float [N >= 1, H, W, C] in [0, 1].
        labels: their classes, integers [N].
        key: of the draws of a randomised model; default a fixed one.
        gradients: whether this model's gradients will be used; False if a surrogate is differentiated
            instead, or none.

    Raises:
        TypeError: the model is not a callable pytree.
        ValueError: it is in training mode, or an attack would refuse the images or labels.
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
    """A model's outputs on a batch, and their reference; host arrays, float64."""

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
            "images. They count neither as correct nor as fooled. Look for a logarithm, a division or an "
            "overflow."
        )
    at_edges = ~_answered(look.ask(_at_edges(look.x), look.keys)[1]) & ~silent
    if at_edges.any():
        found.append(
            f"The model gives no answer (NaN or infinite logits) on {at_edges.sum()} of n = {rows} images "
            "once some of their entries are 0 or 1, as in attacks. These images count neither as correct "
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
    """Tell whether all rows with an answer are distributions that are not declared as votes."""
    if not gives_confidences(look.model):
        return False
    rows = look.classes[_answered(look.logits)]
    rounding = 0.02 if jnp.finfo(look.kind).bits < 32 else 1e-3
    return bool(len(rows)) and bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1.0) <= rounding).all())


def _are_one_hot(look: _Look) -> bool:
    """Tell whether the outputs are an argmax; then the missing gradient is the finding."""
    return bool(np.isin(look.classes[_answered(look.logits)], (0.0, 1.0)).all()) and not _has_gradient(look)


def _sameness_findings(look: _Look, keys: Keys) -> list[str]:
    """Return whether an image's output depends on more than the image; the first finding explains others."""
    again = look.ask(look.x, keys)[1]
    if gap := _most_differ(look.logits, again, SAME):
        return [
            f"Two calls on the same images differ, by {gap} of the range of the logits. The model draws "
            "random numbers that it does not declare, or keeps a state. Let it draw from keys in a field "
            "that row_keys names, so that attacks and judge can draw anew (docs/your-own-model.md)."
        ]
    rows = len(look.x)
    few = np.arange(rows) % min(3, rows)  # the first three images, repeated
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
        return []  # reported already
    try:
        gradient = _gradients_of(look)[asked]
    except Exception as error:  # any error of a user's model during differentiation
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
    """Return the images with a quarter of their entries at 0 and another at 1, always the same ones."""
    dice = jnp.asarray(np.random.default_rng(0).random(x.shape, np.float32))
    return jnp.where(dice < 0.25, 0.0, jnp.where(dice > 0.75, 1.0, x)).astype(x.dtype)


def _most_differ(first: np.ndarray, second: np.ndarray, share: float) -> str:
    """Return the difference of the outputs of most rows, in words; empty if most do not differ.

    Of most rows, because rounding may change a single one, for example in a quantiser or a vote.
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

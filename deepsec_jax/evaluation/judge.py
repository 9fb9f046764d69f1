"""Success and distances, measured independently of the attack."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.answers import as_labels
from deepsec_jax.attacks.model_checks import OUTSIDE, check_model, check_range, check_shapes
from deepsec_jax.explicit_meshes import on_automatic_mesh
from deepsec_jax.jit import jit_per_class
from deepsec_jax.metrics import Answers, classify
from deepsec_jax.model_traits import classes_of, logits_shape
from deepsec_jax.placement import place_rows
from deepsec_jax.protocols import Classifier, Images, Key, Keys, Labels, Logits
from deepsec_jax.pytree import Struct
from deepsec_jax.randomness import example_keys, is_randomised, root_key, typed_key

DRAWS = 10
"""Number of draws for judging a randomised model."""

_JUDGE = 0x6A756467  # "judg": a separate root, so that no attack has seen these draws


class Outcome(Struct):
    """The result for each image.

    Attributes:
        success: 1 or 0 [B]: the goal is reached on the adversarial image and not on the clean one; on a
            randomised model the share of such draws; NaN for a row with an invalid image or label (see
            :func:`judge`).
        before: 1 or 0 [B], or the share of draws: the clean image already reaches the goal, which is no
            success.
        correct: 1 or 0 [B], or the share of draws: the model predicts the true class on the adversarial
            image.  The mean is the accuracy under attack, including clean errors; NaN like ``success``.
        predicted: class of the adversarial image, int32 [B]: the most frequent one, over the draws that
            succeeded if at least half did; K means "rejected", -1 no answer.
        confidence: probability of that class, a mean over the same draws [B]; NaN for a model without
            confidences.
        logits: logits on the adversarial image [B, K], [B, K+1] of a model that rejects; on a randomised
            model their mean.
        probabilities: softmax of the logits of the classes [B, K]; on a randomised model the mean over draws;
            NaN for a model without confidences (:func:`deepsec_jax.model_traits.gives_confidences`).
        l0: share of entries (pixels x channels) that changed [B].
        l1: sum of absolute changes [B].
        l2: Euclidean norm of the change [B].
        linf: largest absolute change [B].
        rejected: 1 or 0 [B], or the share of draws in which the image is rejected, which is no success; NaN
            for a model that cannot reject.
        no_answer: 1 or 0 [B], or the share of draws without an answer (NaN or +inf): neither correct nor a
            success.
    """

    success: jax.Array
    before: jax.Array
    correct: jax.Array
    predicted: Labels
    confidence: jax.Array
    logits: Logits
    probabilities: jax.Array
    l0: jax.Array
    l1: jax.Array
    l2: jax.Array
    linf: jax.Array
    rejected: jax.Array
    no_answer: jax.Array


@on_automatic_mesh
def judge(
    model: Classifier,
    x: Images,
    x_adv: Images,
    labels: Labels,
    *,
    targets: Labels | None = None,
    key: Key | None = None,
    draws: int | None = None,
    first: int = 0,
) -> Outcome:
    """Classify clean and adversarial images and measure their distances.

    An attack that changes nothing has no success on any model.

    Like an attack it refuses a model in training mode, arrays that do not match, values outside [0, 1], and
    invalid labels.  Values on a device are not checked, since that would wait for it; there such a row has
    success NaN.

    Args:
        model: the model under attack.
        x: clean images [B, H, W, C].
        x_adv: adversarial images [B, H, W, C].
        labels: true classes [B].
        targets: target classes [B], ``attack.targets(model, x, labels)``; with None any class except the
            label counts, but not "rejected".
        key: root of the draws of a randomised model; default a fixed key that no attack uses.
        draws: number of draws of a randomised model; default :func:`draws_of` it.
        first: index of the first image in its data set, so that its draws do not depend on the batch.

    Returns:
        An :class:`Outcome`.

    Raises:
        TypeError: the model is not a callable pytree; the error names the adapter.
        ValueError: see above.
    """
    for images in (x, x_adv):
        if isinstance(images, np.ndarray) and jnp.issubdtype(images.dtype, jnp.floating):
            check_range(images)
    x, x_adv = jnp.asarray(x), jnp.asarray(x_adv)
    if x_adv.shape != x.shape:
        raise ValueError(f"x_adv has shape {list(x_adv.shape)}, x has {list(x.shape)}: make them equal")
    x, x_adv = place_rows(model, (x, x_adv))
    told: dict[str, Any] = {"key": key, "draws": draws, "first": first}
    clean = answers_of(model, x, labels, targets, **told)
    found = answers_of(model, x_adv, labels, targets, before=clean.reached, **told)
    classes = found.probabilities.shape[-1]
    for name, given in (("labels", labels), ("targets", targets)):
        if isinstance(given, np.ndarray):
            _check_classes(name, given, classes)
    valid = _valid(x, x_adv, labels, labels if targets is None else targets, classes=classes)
    return Outcome(
        success=jnp.where(valid, found.success, jnp.nan),
        before=jnp.mean(clean.reached, axis=0, dtype=jnp.float32),
        correct=jnp.where(valid, found.correct, jnp.nan),
        predicted=found.predicted,
        confidence=confidence_of(found),
        logits=found.logits,
        probabilities=found.probabilities,
        **_distances(x, x_adv),
        rejected=found.rejected,
        no_answer=found.no_answer,
    )


def _check_classes(name: str, given: np.ndarray, classes: int) -> None:
    """Raise ValueError for labels that are not classes of a model."""
    low, high = (int(given.min()), int(given.max())) if len(given) else (0, 0)
    if low < 0 or high >= classes:
        raise ValueError(f"{name} range over {low} .. {high}, but the model has classes 0 .. {classes - 1}")


@partial(jax.jit, static_argnames=("classes",))
def _valid(x: Images, x_adv: Images, labels: Labels, goal: Labels, *, classes: int) -> jax.Array:
    """Return bool [B]: both images are in [0, 1] up to rounding, and label and goal are classes."""
    fits = [jnp.all((each >= -OUTSIDE) & (each <= 1.0 + OUTSIDE), axis=(1, 2, 3)) for each in (x, x_adv)]
    fits += [(each >= 0) & (each < classes) for each in map(as_labels, (labels, goal))]
    return fits[0] & fits[1] & fits[2] & fits[3]


@on_automatic_mesh
def answers_of(
    model: Classifier,
    images: Images,
    labels: Labels,
    targets: Labels | None = None,
    *,
    before: jax.Array | None = None,
    key: Key | None = None,
    draws: int | None = None,
    first: int | jax.Array = 0,
) -> Answers:
    """Return a model's outputs on images, under the judge's draws.

    One program for images with and without ``before``: two programs could round differently, and an unchanged
    image must get the same answer.

    Args:
        model: the model.
        images: [B, H, W, C].
        labels: true classes [B].
        targets: target classes [B]; None for any class except the label.
        before: ``reached`` of the images before the attack, bool [draws, B]; None means nowhere.
        key: root of the draws; default a fixed one that no attack uses.
        draws: number of draws of a randomised model; default :func:`draws_of` it.
        first: index of the first image in its data set.
    """
    check_model(model)
    root = root_key(_JUDGE) if key is None else typed_key(key)
    draws = draws_of(model) if draws is None or not is_randomised(model) else draws
    rows = images.shape[0]
    before = jnp.zeros((draws, rows), bool) if before is None else before
    images, labels, targets = place_rows(model, (images, labels, targets))
    return _answers(model, images, labels, targets, before, root, first, draws=draws)


def confidence_of(answers: Answers) -> jax.Array:
    """Return the mean probability [B] of the predicted class; NaN for "rejected", no answer or votes."""
    classes = answers.probabilities.shape[-1]
    chosen = jnp.clip(answers.predicted, min=0, max=classes - 1)[:, None]
    mean = jnp.take_along_axis(answers.probabilities, chosen, axis=-1)[:, 0]
    named = (answers.predicted >= 0) & (answers.predicted < classes)
    return jnp.where(answers.success >= 0.5, answers.adversarial, jnp.where(named, mean, jnp.nan))


def draws_of(model: Classifier) -> int:
    """Return the number of draws per image: 1, or :data:`DRAWS` for a randomised model.

    A model whose single output is already an average over many draws has an attribute ``judged_draws``.
    """
    return int(getattr(model, "judged_draws", DRAWS)) if is_randomised(model) else 1


def judging_keys(
    model: Classifier,
    rows: int,
    *,
    first: int | jax.Array = 0,
    root: Key | None = None,
    draws: int | None = None,
) -> Keys | None:
    """Return the keys [draws, rows] for judging a randomised model; None for other models.

    Args:
        model: the model.
        rows: number of images.
        first: index of the first one in its data set, so that draws do not depend on the batch.
        root: root of the keys; default a fixed one that no attack uses.
        draws: number of draws per image; default :func:`draws_of` the model.
    """
    if not is_randomised(model):
        return None
    root = root_key(_JUDGE) if root is None else typed_key(root)
    roots = jax.random.split(root, draws_of(model) if draws is None else draws)
    return jax.vmap(lambda key: example_keys(key, rows, first=first))(roots)


@partial(jit_per_class, static_argnames=("draws",))
def _answers(
    model: Classifier, images: Images, labels: Labels, targets: Labels | None, before: Any, root: Key | None,
    first: Any, *, draws: int | None,
) -> Answers:  # fmt: skip
    for classes in (labels,) if targets is None else (labels, targets):
        check_shapes(model, images, classes)
    rows = images.shape[0]
    if rows:
        keys = judging_keys(model, rows, first=first, root=root, draws=draws)
        return classify(model, images, labels, targets, keys, before)
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)  # a model may not accept an empty batch
    nothing, none = jnp.zeros(0), jnp.zeros(0, jnp.int32)
    return Answers(
        reached=before, success=nothing, correct=nothing, predicted=none,
        logits=jnp.zeros((0, logits_shape(model, one)[-1])),
        probabilities=jnp.zeros((0, classes_of(model, one))),
        adversarial=nothing, true=nothing, lead=nothing, rejected=nothing, no_answer=nothing,
        classes=jnp.zeros((len(before), 0), jnp.int32),
    )  # fmt: skip


@jax.jit
def _distances(x: Images, x_adv: Images) -> dict[str, jax.Array]:
    """Return the norms of the changes [B] by name."""
    change = jnp.abs(x_adv.astype(jnp.float32) - x.astype(jnp.float32))
    delta = change.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 would not do for an empty batch
    return {
        "l0": jnp.mean(delta > 0, axis=1, dtype=jnp.float32),
        "l1": jnp.sum(delta, axis=1),
        "l2": jnp.linalg.norm(delta, axis=1),
        "linf": jnp.max(delta, axis=1, initial=0.0),
    }

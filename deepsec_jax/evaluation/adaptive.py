"""A defended model under attack: replayed images, white-box and adaptive attacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import APGD, PGD, Square, Transfer, losses
from deepsec_jax.attacks.parts import Cosine, Momentum, at_input
from deepsec_jax.metrics import Column
from deepsec_jax.protocols import Classifier

SHARE = 0.08
"""Largest share of an image in a square of the guided search: 8 x 8 pixels on MNIST."""


def adaptive_runs(
    surrogate: Any,
    *,
    eps: float,
    steps: int,
    aims: int,
    rounds: int,
    stops: bool,
    joint: Mapping[str, Any] | None = None,
    search: Any = None,
) -> list[Any]:
    """Return the attacks of the adaptive column, in order.

    APGD from the clean image in the direction of cross-entropy; APGD on the margin towards each of the
    ``aims`` nearest wrong classes, from random starts; on a guarded model :func:`joint_runs`; last a search
    without gradients.  If the search finds more images, the gradient is misleading.

    Args:
        surrogate: the model to differentiate; a ``Guarded`` if there is a ``joint`` attack.
        eps: radius.
        steps: of each run of APGD.
        aims: number of wrong classes.
        rounds: number of runs towards each.
        stops: whether an image is finished when the surrogate is fooled; False if the model may still be
            correct, so that a larger margin helps.
        joint: arguments of :func:`joint_runs`.
        search: the last attack, prepared for the defended model; None for none.
    """
    apgd = APGD(eps=eps, steps=steps, stops=stops)
    aimed = apgd.replace(aims=aims, nearest=True, restarts=rounds, aimed=losses.margin_to)
    runs: list[Any] = [Transfer(each, surrogate) for each in (apgd.replace(start=at_input), aimed)]
    if joint is not None:
        runs += joint_runs(surrogate, eps=eps, steps=steps, **joint)
    return runs if search is None else [*runs, search]


def joint_runs(
    surrogate: Any,
    *,
    eps: float,
    step_size: float,
    steps: int,
    restarts: int,
    names: Sequence[str],
    decay: float,
    weights: Sequence[float],
    confident: int,
) -> list[Transfer]:
    """Return the runs against model and detector: ``restarts`` of PGD for each loss.

    The restarts cycle through weights of the detector, since the best one differs by detector and image.
    Step sizes decrease to 0 as a cosine: steps of constant length oscillate, and a strict detector notices.
    Steps have momentum: at the boundary between fooled and flagged the gradient alternates between the two.
    First there are ``confident`` runs on the model without its detector, for the largest margin in the ball:
    some detectors miss images that are misclassified with high confidence.

    Args:
        surrogate: the model to differentiate; a ``Guarded`` if there are ``weights`` or confident runs.
        eps: radius.
        step_size: of PGD's first step.
        steps: of each run.
        restarts: runs per loss.
        names: of losses.
        decay: of the momentum.
        weights: values of ``Guarded.weight``, cycled over all restarts; empty leaves the surrogate unchanged.
        confident: number of runs on the model without detector.
    """

    def through(model: Classifier, name: str) -> Transfer:
        rule = Cosine(float(steps), Momentum(decay))
        return Transfer(
            PGD(eps=eps, step_size=step_size, steps=steps, loss=losses.LOSSES[name], rule=rule), model
        )

    weighed = [surrogate.replace(weight=weight) for weight in weights] or [surrogate]
    every = [name for name in names for _ in range(restarts)]
    bare = [through(surrogate.model, "max_margin") for _ in range(confident)]
    return [*bare, *(through(weighed[turn % len(weighed)], name) for turn, name in enumerate(every))]


def guided_search(surrogate: Classifier, *, eps: float, queries: int, stops: bool) -> Transfer:
    """Return a search guided by gradients, for models with a misleading gradient."""
    search = Square(eps=eps, queries=queries, share=SHARE, guided=True, shrinking=False, stops=stops)
    return Transfer(search, surrogate)


def _robust(arrays: Mapping[str, np.ndarray]) -> jax.Array:
    """Return the share of draws in which an image stays correct; the attacker may also leave it unchanged."""
    return jnp.minimum(arrays["clean"], arrays["right_or_rejected"])


def _clean(arrays: Mapping[str, np.ndarray]) -> jax.Array:
    return jnp.asarray(arrays["clean"])


def _column(name: str, title: str, formula: str, values: Callable[[Any], jax.Array] = _robust) -> Column:
    return Column(name, "robust", title, formula, "ours", "share", "higher", "all", values, rate=True)


ROBUSTNESS_COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        _column("clean", "Clean", "share of the n images that are classified correctly", _clean),
        _column("replayed", "Replayed", "share that stays correct on PGD images of the undefended model"),
        _column("white_box", "White-box", "share that stays correct on PGD images of the model itself"),
        _column("adaptive", "Adaptive", "share that stays correct on what is made through the surrogate"),
        _column("worst", "Worst", "share that stays correct on all of these"),
    )
}  # fmt: skip
"""Accuracy under attack, one value per image of the sample: 1 or 0, or a share of draws.  ``values`` takes
the arrays of a cell; the report computes ``worst`` over cells.  A rejected clean image is an error, a
rejected adversarial one is not fooled.
"""


def _refused(column: Column) -> Column:
    name = "clean_rejected" if column.name == "clean" else "rejected"
    images = "clean images" if column.name == "clean" else f"{column.title.lower()} images"
    return Column(
        f"{column.name}_rejected", "robust", f"{column.title} rejected",
        f"share of the n {images} that are rejected", "ours", "share", "neither", "all",
        lambda arrays: jnp.asarray(arrays[name]), rate=True, needs_rejection=True,
    )  # fmt: skip


REJECTION_COLUMNS: dict[str, Column] = {
    name: _refused(column) for name, column in ROBUSTNESS_COLUMNS.items() if name != "worst"
}
"""Column under attack -> share of its images that a model rejects; the names of these columns are like
``adaptive_rejected``.
"""

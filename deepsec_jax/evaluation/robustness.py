"""A defended model under attack: images replayed on it, made on it, or made through its surrogate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import APGD, PGD, Square, Transfer, losses
from deepsec_jax.attacks.parts import Cosine, Momentum, at_input
from deepsec_jax.metrics import Column
from deepsec_jax.protocols import Attack, Classifier

SHARE = 0.08
"""Of an image, that a square of the guided search covers at most: 8 x 8 pixels of MNIST's."""


def adaptive_runs(
    surrogate: Any,
    *,
    eps: float,
    steps: int,
    aims: int,
    rounds: int,
    stops: bool,
    joint: Mapping[str, Any] | None = None,
    search: Attack | None = None,
) -> list[Any]:
    """Return the attacks of the adaptive column, in their order.

    APGD from the clean image along the cross-entropy's direction; APGD on the margin towards each of the
    ``aims`` nearest wrong classes in turn, from random starts; on a guarded model then :func:`joint_runs`;
    last a search that needs no gradient, which must not find what gradients do not.

    Args:
        surrogate: what is differentiated; a ``Guarded`` where there is a ``joint`` attack.
        eps: radius.
        steps: of each run of APGD.
        aims: wrong classes.
        rounds: runs towards each.
        stops: whether an image is done where the surrogate is fooled; False where the model may still hold,
            and a larger margin carries farther.
        joint: arguments of :func:`joint_runs`.
        search: the last attack, made ready to run on the defended model; None for none.
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
    """Return the runs against a model and its detector: ``restarts`` of PGD for each loss.

    The restarts take turns in how much the detector weighs, for the best weight differs from detector to
    detector.  Steps shrink to nothing, as a cosine: those of one length keep every pixel going to and fro,
    which a tight detector sees.  They follow a momentum: alone, a gradient at the edge between fooling the
    model and being flagged points to one of both, in turn.  Before them come ``confident`` runs on the model
    without its detector, whose margin is driven as far as the ball lets it: some detectors miss what is wrong
    with confidence.

    Args:
        surrogate: what is differentiated; a ``Guarded`` where there are ``weights`` or confident runs.
        eps: radius.
        step_size: of PGD's first step.
        steps: of each run.
        restarts: runs per loss.
        names: of losses.
        decay: of the momentum.
        weights: values of ``Guarded.weight``, in turn over all restarts; none leaves the surrogate as it is.
        confident: number of runs on the bare model.
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
    """Return a search along what gradients say, for models without one that leads all the way."""
    search = Square(eps=eps, queries=queries, share=SHARE, guided=True, shrinking=False, stops=stops)
    return Transfer(search, surrogate)


def _robust(arrays: Mapping[str, np.ndarray]) -> jax.Array:
    """Return the share of draws in which an image stays right; an attacker may also leave it as it is."""
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
the arrays of a cell; ``worst`` is taken over cells, by the report.  An image that is rejected counts as an
error where it is clean, and as not fooled where it was made."""


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
"""Column under attack -> how many of its images a model that can reject has refused; as values of cells they
go by their own names, ``adaptive_rejected``."""

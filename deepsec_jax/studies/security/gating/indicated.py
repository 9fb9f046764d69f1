"""The six indicators of attack failure as a cell's arrays, and the gates that they close."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from deepsec_jax.attacks import APGD, INDICATORS, indicators
from deepsec_jax.attacks.settings import described
from deepsec_jax.batches import OnBatch, in_batches, silent
from deepsec_jax.evaluation.defense_cells import DefendedModel
from deepsec_jax.protocols import Classifier, Key
from deepsec_jax.randomness import example_keys
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.cells import Makers
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.sign import ROWS, sign_job
from deepsec_jax.studies.security.worst import largest_linf
from deepsec_jax.tables.table import Finding

STEPS = 100

KIND = "indicators"
"""Kind of the cells of a security evaluation that hold indicators."""

UNAVAILABLE = "zero gradients"
UNSTABLE = "unstable predictions"
SILENT = "success not returned"
INCOMPLETE = "loss still increases"
TRANSFER = "surrogate disagrees"
UNCONSTRAINED = "fails without a bound"

MOST = {
    "unavailable_gradients": 0.01, "unstable_predictions": 0.5, "silent_success": 0.02,
    "incomplete_optimisation": 0.1, "transfer_failure": 0.05, "unconstrained_failure": 0.01,
}  # fmt: skip
"""Largest mean of each indicator that closes no gate; of incomplete optimisation the share of surviving
images whose last tenth of steps brought more than :data:`STILL` of the gain.
"""

STILL = 0.05


def attack_at(norm: str, eps: float) -> APGD:
    """Return the attack whose failure is measured."""
    return APGD(eps=eps, norm=norm, steps=STEPS, stops=False)


def indicator_arrays(
    attack: APGD,
    model: Classifier,
    surrogate: Classifier | None,
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    *,
    key: Key,
    batch_size: int,
    on_batch: OnBatch = silent,
) -> dict[str, np.ndarray]:
    """Return the indicators of the first :data:`ROWS` correctly classified images, float32 [n] each.

    Args:
        attack: see :func:`attack_at`.
        model: the model.
        surrogate: what is differentiated in its place; None for itself.
        images: clean images [N, H, W, C].
        labels: true classes [N].
        clean: share of draws in which the clean image is classified correctly [N].
        key: root of the random numbers.
        batch_size: images per call.
        on_batch: called with numbers of images.
    """
    chosen = np.flatnonzero(clean > 0.5)[:ROWS]
    keys = example_keys(key, len(images))[chosen] if len(chosen) else None

    def found(rows: np.ndarray) -> dict[str, Any]:
        assert keys is not None
        values = indicators(
            attack, model, jnp.asarray(images[chosen[rows]]), labels[chosen[rows]], surrogate=surrogate,
            key=keys[rows],
        )  # fmt: skip
        return dict(values._asdict())

    size = max(1, min(batch_size, len(chosen)))
    nothing = dict.fromkeys((*INDICATORS, "survived"), np.zeros(0, np.float32))
    return {"rows": chosen.astype(np.int32), **nothing, **in_batches(found, len(chosen), size, on_batch)}


def means(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the figure of each indicator that :data:`MOST` bounds; 0 without images."""
    survived = arrays["survived"] > 0.5
    found = {name: float(arrays[name].mean()) if len(survived) else 0.0 for name in INDICATORS}
    late = arrays["incomplete_optimisation"][survived] > STILL
    return found | {"incomplete_optimisation": float(late.mean()) if late.sum() > 1 else 0.0}


def indicated(arrays: Mapping[str, np.ndarray], *, surrogate: bool) -> list[Gate]:
    """Return the gates that the indicators close.

    Args:
        arrays: of :func:`indicator_arrays`.
        surrogate: whether a surrogate was differentiated.
    """
    share = {name: f"{100 * value:.0f} %" for name, value in means(arrays).items()}
    n = len(arrays["rows"])
    through = "the surrogate" if surrogate else "the model"
    said = {
        "unavailable_gradients": (
            UNAVAILABLE,
            f"{through} has no gradient on {share['unavailable_gradients']} of n = {n} images",
            "attack by decisions alone: deepsec attack MODEL --attacks rays, or give a surrogate: "
            "models.straight_through",
        ),
        "unstable_predictions": (
            UNSTABLE,
            f"the loss of {through} changes by {share['unstable_predictions']} under random moves of 4/255",
            "average the gradient: wrap the surrogate in models.EOT, or attack without gradients: deepsec "
            "attack MODEL --attacks square rays",
        ),
        "silent_success": (
            SILENT,
            f"on {share['silent_success']} of n = {n} images an iterate was adversarial and was not returned",
            "return the best iterate: PGD and APGD do",
        ),
        "incomplete_optimisation": (
            INCOMPLETE,
            f"on {share['incomplete_optimisation']} of the surviving images the last tenth of the steps "
            "still brings a gain",
            "take more steps: double them",
        ),
        "transfer_failure": (
            TRANSFER,
            f"{share['transfer_failure']} of n = {n} images fool the surrogate and not the model",
            "give a surrogate that is closer to the model, or attack the model without gradients: deepsec "
            "attack MODEL --attacks square rays",
        ),
        "unconstrained_failure": (
            UNCONSTRAINED,
            f"without a bound on the change the attack still fails on {share['unconstrained_failure']} of "
            f"n = {n} images",
            "the gradient misleads: attack another surrogate, or without gradients: deepsec attack MODEL "
            "--attacks square rays",
        ),
    }  # fmt: skip
    return [
        Gate(Finding(label, text), closed=True, remedy=remedy)
        for name, (label, text, remedy) in said.items()
        if means(arrays)[name] > MOST[name]
    ]


def indicator_job(
    makers: Makers, run: Run, defended: DefendedModel | None, *, n: int, seed: int, preset: str
) -> Job:
    """Return the job that measures the indicators at the largest usual radius in L-inf.

    Args:
        makers: of the other jobs.
        run: the undefended model and its data.
        defended: the defended model; None for the undefended one.
        n: number of images, of which at most :data:`ROWS` are used.
        seed: of images and attacks.
        preset: of the section's attacks.
    """
    threat = largest_linf(run.channels)
    attack = attack_at(threat.norm, threat.eps)
    about = {
        "kind": KIND, "version": 1, "threat": threat.key,
        "attack": {"name": "apgd", "preset": preset, **described(attack)},
    }  # fmt: skip
    return sign_job(
        makers, run, defended, partial(indicator_arrays, attack), about,
        n=n, seed=seed, gradients=3 * STEPS, bytes_per_image=32,
    )  # fmt: skip

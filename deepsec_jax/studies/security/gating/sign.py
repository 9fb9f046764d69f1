"""A cell that says how far the attacks on one model may be trusted: what such cells have in common."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from deepsec_jax.batches import OnBatch
from deepsec_jax.evaluation.defense_cells import DefendedModel, is_exact
from deepsec_jax.randomness import root_key
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.cells import Makers

ROWS = 100
"""Number of images of such a cell at most."""

Measure = Callable[..., dict[str, np.ndarray]]
"""``measure(model, surrogate, images, labels, clean, *, key, batch_size, on_batch)``: a cell's arrays."""


def sign_job(
    makers: Makers,
    run: Run,
    defended: DefendedModel | None,
    measure: Measure,
    about: Mapping[str, Any],
    *,
    n: int,
    seed: int,
    gradients: int,
    bytes_per_image: int,
) -> Job:
    """Return the job of such a cell.

    Args:
        makers: of the other jobs.
        run: the undefended model and its data.
        defended: the defended model; None for the undefended one.
        measure: returns the arrays of the cell.
        about: ``kind``, ``version``, ``attack`` and what else names the cell.
        n: number of images, of which at most :data:`ROWS` are used.
        seed: of images and random numbers.
        gradients: per image, at most.
        bytes_per_image: of the arrays.
    """
    n = min(n, ROWS)
    surrogate = None if defended is None or is_exact(defended) else defended.surrogate

    def compute(on_batch: OnBatch) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        chosen = makers.candidates(n)
        model = run.model if defended is None else defended.classifier
        clean = np.ones(len(chosen)) if defended is None else makers.clean(defended, n).correct
        batch_size = min(makers.batch_size, n)
        arrays = measure(
            model, surrogate, chosen.images, chosen.labels, clean,
            key=root_key(seed), batch_size=batch_size, on_batch=on_batch,
        )  # fmt: skip
        return {"batch_size": batch_size, "surrogate": surrogate is not None}, arrays

    of_model: dict[str, Any] = {}
    if defended is not None:
        weights = {"defended": defended.weights, "surrogate": defended.surrogate_weights}
        of_model = {"defense": defended.about, "weights": weights}
    config = {
        **about, "row": "undefended" if defended is None else str(defended.about["name"]),
        "data": run.dataset.name, "model": run.about, "images": run.images(), "n": n, "seed": seed,
        "candidates": makers.candidates_name(n), **of_model,
    }  # fmt: skip
    notes = run.notes if defended is None else partial(makers.notes, defended)
    return Job(
        config, compute, images=n, gradients=gradients, notes=notes, ready=partial(makers.candidates, n),
        bytes=n * bytes_per_image + 65536,
    )  # fmt: skip

"""The paper's tables of detectors on the images of a security evaluation: VI and XVI, and VII over eps."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from deepsec_jax.evaluation.defense_cells import digest
from deepsec_jax.evaluation.detector_jobs import Asked, Detectors, Sweep
from deepsec_jax.evaluation.under_test import detector_under_test
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.run import Run

SWEPT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Radii of Table VII."""


def detection_jobs(
    run: Run,
    folders: Sequence[str],
    attacks: Mapping[str, Mapping[str, Any]],
    notes: Any,
    *,
    n: int,
    seed: int,
) -> list[Job]:
    """Return the jobs that score the attacks' images with each detector, at one threshold; none is attacked.

    Args:
        run: the guarded model and its data.
        folders: of detectors.
        attacks: name of an attack's cell -> its config.
        notes: returns the entries of environments.
        n: images of the sweep over eps.
        seed: of the images.
    """
    if not folders:
        return []
    watchers = [detector_under_test(each, run.about["name"], run.model, run.dataset) for each in folders]
    made = Detectors(
        Asked(run.dataset.name, run.about, digest(run.model), run.images()), run.model, run.dataset,
        run.store, run.batch_size(len(run.dataset.test)), notes,
    )  # fmt: skip
    candidates = partial(run.candidates, n, seed)
    sweep = Sweep(SWEPT, run.candidates_name(n, seed), n, seed, candidates)
    return made.jobs(watchers, attacks, sweep)

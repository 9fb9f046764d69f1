"""The cells of ``deepsec evaluate attacks``: one per attack."""

from functools import partial
from typing import Any

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.attacks import preset as preset_of
from deepsec_jax.attacks.cost import uses_gradients
from deepsec_jax.attacks.presets import ROWS, table_of
from deepsec_jax.catalog import UnknownName
from deepsec_jax.evaluation.attack_jobs import attack_config, attack_job, column_groups
from deepsec_jax.metrics import METRICS
from deepsec_jax.model_traits import rejects
from deepsec_jax.protocols import Attack
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.attacks.options import Options
from deepsec_jax.studies.run import Run


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the job of each requested attack, in the order of the paper's tables."""
    return jobs_of(
        presets(options.attacks, run, options.preset), run,
        n=options.n, seed=options.seed, preset=options.preset, metrics=options.metrics,
    )  # fmt: skip


def jobs_of(
    attacks: dict[str, Attack],
    run: Run,
    *,
    n: int,
    seed: int,
    preset: str,
    metrics: tuple[str, ...] = (),
) -> list[Job]:
    """Return the job of each attack.

    Args:
        attacks: row name -> attack.
        run: model, data and run directory.
        n: number of candidates.
        seed: of candidates, targets and random attacks.
        preset: source of the hyperparameters: ``paper``, ``strong`` or ``own``.
        metrics: columns of ``METRICS``; default all that apply to the model.
    """
    can_reject = rejects(run.model)
    every = (name for name, column in METRICS.items() if can_reject or not column.needs_rejection)
    groups = column_groups(metrics or tuple(every))
    gradients = any(map(uses_gradients, attacks.values()))

    def notes() -> dict[str, Any]:
        return run.notes(findings=run.look(run.model, run.about["name"], gradients=gradients))

    return [
        attack_job(
            attack_config(
                name, attack, preset=preset, data=run.dataset.name, model=run.about,
                candidates=run.candidates_name(n, seed), images=run.images(), n=n,
                seed=seed, train_digest=run.dataset.digest,
            ),
            attack, run.model, partial(run.candidates, n, seed),
            groups=groups, image_shape=run.dataset.image_shape, classes=run.classes,
            batch_size=run.batch_size(n), fitting=partial(run.attack_batch_size, n, attack),
            gradient_seconds=partial(run.gradient_seconds, n),
            train_images=partial(run.training_images, seed), notes=notes,
        )
        for name, attack in attacks.items()
    ]  # fmt: skip


def presets(names: tuple[str, ...], run: Run, kind: str) -> dict[str, Attack]:
    """Return row name -> attack; by default the paper's rows that exist, then every other attack.

    Raises:
        UnknownName: no such attack or preset, with near matches.
    """
    data, channels = run.dataset.name, run.channels
    if names:
        return {name: preset_of(name, data, kind, channels=channels) for name in names}
    rows = [row for row in ROWS[table_of(data, channels)] if row.partition("@")[0] in ATTACKS]
    attacks = {}
    for row in (*rows, *(name for name in ATTACKS if name not in rows)):
        try:
            attacks[row] = preset_of(row, data, kind, channels=channels)
        except UnknownName:
            if "@" not in row:  # only a variant of the paper's tables may lack other hyperparameters
                raise
    return attacks

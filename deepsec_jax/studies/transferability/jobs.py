"""The cells of ``deepsec evaluate transferability``: attacks on each model, and their images on others."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deepsec_jax.attacks import preset
from deepsec_jax.attacks.presets import ROWS, table_of
from deepsec_jax.defenses import load
from deepsec_jax.evaluation.under_test import UnfitError, check_fits
from deepsec_jax.model_traits import rejects
from deepsec_jax.models import AveragedLogits
from deepsec_jax.placement import beside
from deepsec_jax.protocols import Attack
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.attacks.jobs import jobs_of, presets
from deepsec_jax.studies.model_words import about_folder
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.transferability.cells import Target, transfer_job
from deepsec_jax.studies.transferability.options import Options

STEPS, KAPPA = "@steps:", "@kappa:"
"""Between the name of an attack and its number in the curves."""


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs: attacks on every source, then their images on the other models.

    Raises:
        UnfitError: a folder whose model cannot be judged on this data set.
    """
    original = Target(run.about, run.model)
    others = [_target(folder, run) for folder in options.models]
    targets = (original, *others)
    attacks = {**presets(options.attacks, run, options.preset), **_curves(options, run)}
    found = _from(run, attacks, others, options, run.about["name"])
    if not options.matrix:
        return found
    chosen = presets(options.matrix, run, options.preset)
    missing = {name: attack for name, attack in chosen.items() if name not in attacks}
    found += _from(run, missing, others, options, run.about["name"]) if missing else []
    for other in others:
        run_there = run.of(other.model, other.about, other.weights)
        to = [target for target in targets if target is not other]
        found += _from(run_there, chosen, to, options, run.about["name"])
    for left_out in targets if len(targets) > 2 else ():
        members = [target for target in targets if target is not left_out]
        average = Target(
            {
                "name": f"average without {left_out.name}",
                "members": {each.name: each.weights for each in members},
            },
            AveragedLogits(tuple(each.model for each in members)),
        )
        found += _from(
            run.of(average.model, average.about, average.weights),
            chosen,
            [left_out],
            options,
            run.about["name"],
        )
    return found


def _from(
    run: Run, attacks: Mapping[str, Attack], targets: Sequence[Target], options: Options, original: str
) -> list[Job]:
    """Return the jobs of attacks on one model, and of their images on the targets."""
    made = jobs_of(
        dict(attacks), run, n=options.n, seed=options.seed, preset=options.preset, metrics=("mr", "acac")
    )
    judging = [
        transfer_job(
            job, target, original, run.store, batch_size=run.batch_size(options.n),
            notes=partial(_notes, run, target),
        )
        for job in made
        for target in targets
    ]  # fmt: skip
    return [*made, *judging]


def _notes(run: Run, target: Target) -> dict[str, Any]:
    return run.notes(findings=run.look(target.model, target.name, gradients=False))


def _target(folder: str, run: Run) -> Target:
    """Return the checked model of a folder."""
    found = load(folder)
    name = Path(folder).resolve().name
    classes = check_fits(found.model, run.dataset)
    if classes != run.classes or rejects(found.model):
        raise UnfitError(
            f"{folder} gives {classes} classes{' and rejects' if rejects(found.model) else ''}, the original "
            f"model {run.classes}: give a classifier of the same classes"
        )
    return Target(about_folder(found, name), beside(found.model, run.model))


def _curves(options: Options, run: Run) -> dict[str, Attack]:
    """Return the attacks of the curves; a confidence that the presets have keeps their name."""
    data, channels, kind = run.dataset.name, run.channels, options.preset
    found: dict[str, Attack] = {}
    for name in options.climbs if options.steps else ():
        usual: Any = preset(name, data, kind, channels=channels)
        for steps in options.steps:
            found[f"{name}{STEPS}{steps}"] = usual.replace(steps=steps, step_size=usual.eps / steps)
    rows = [row for row in ROWS[table_of(data, channels)] if row.partition("@")[0] == "cw2"]
    for kappa in options.kappas:
        known: dict[str, Any] = {row: preset(row, data, kind, channels=channels) for row in rows} if (
            kind == "paper"
        ) else {}  # fmt: skip
        same = next((row for row, attack in known.items() if attack.confidence == kappa), "")
        if same:
            found[same] = known[same]
        else:
            found[f"cw2{KAPPA}{kappa:g}"] = preset("cw2", data, kind, channels=channels, confidence=kappa)
    return found

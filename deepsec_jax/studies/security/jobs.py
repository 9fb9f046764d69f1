"""The cells that ``deepsec evaluate security`` wants: attacks, defended models, and both together."""

from functools import partial
from typing import Any

from deepsec_jax.attacks import preset
from deepsec_jax.evaluation.defense_cells import DefendedModel
from deepsec_jax.evaluation.under_test import defended_model
from deepsec_jax.protocols import Attack
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.attacks.jobs import jobs_of, presets
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.cells import MORE, Attacked, Makers
from deepsec_jax.studies.security.indicated import indicator_job
from deepsec_jax.studies.security.options import Options
from deepsec_jax.studies.security.worst import largest_linf, usual_threats


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs: attacks on the undefended model first, then replays, white-box and adaptive attacks.

    Within each kind of knowledge cheap attacks come first, each on all defenses in turn.

    Raises:
        UnfitError: a folder without a defended model of this one.
    """
    attacks = {**presets(options.attacks, run, options.preset), **_at_radii(options, run)}
    sources = jobs_of(
        attacks, run, n=options.n, seed=options.seed, preset=options.preset, metrics=("mr", "mr_8bit")
    )
    attacked = [
        Attacked(name, attack, job.config, job.name)
        for (name, attack), job in zip(attacks.items(), sources, strict=True)
    ]
    defended = [
        defended_model(folder, run.about["name"], run.dataset, like=run.model) for folder in options.defenses
    ]
    makers = Makers(
        run.store, partial(run.candidates, options.n, options.seed),
        partial(run.training_images, options.seed), run.dataset.image_shape, run.classes,
        run.batch_size(options.n), partial(_notes, run), run.once,
    )  # fmt: skip
    kept = ("data", "model", "n", "seed", "candidates", "images")
    shared = {name: sources[0].config[name] for name in kept} | {"preset": options.preset}
    found = [*sources, *(indicator_job(makers, shared, run, each) for each in (None, *defended))]
    for access in options.access:
        made = [makers.job(access, each, model) for each in attacked for model in defended]
        wanted = [job for job in made if job is not None]
        wanted.sort(key=lambda job: float("inf") if job.gradients is None else job.gradients)
        found += wanted
    return found


def _at_radii(options: Options, run: Run) -> dict[str, Attack]:
    """Return APGD at each radius of the worst case, and with more steps at the largest one in L-inf."""
    name = "apgd"
    if options.attacks and name not in options.attacks:
        return {}
    found: dict[str, Any] = {
        f"{name}@{threat.norm}:{threat.eps:.4g}": preset(
            name, run.dataset.name, options.preset, channels=run.channels, eps=threat.eps, norm=threat.norm
        )
        for threat in usual_threats(run.channels)
    }
    largest = largest_linf(run.channels)
    row = f"{name}@{largest.norm}:{largest.eps:.4g}"
    more = found[row].replace(steps=2 * found[row].steps, restarts=2)
    return {**found, row + MORE: more}


def _notes(run: Run, defended: DefendedModel) -> dict[str, Any]:
    """Return the entries of environments, with what is wrong with a defended model and its surrogate."""
    name = defended.about["name"]
    found = run.look(defended.classifier, name, gradients=defended.differentiable)
    if defended.surrogate is not defended.classifier:
        through = run.look(defended.surrogate, f"{name}, its surrogate")
        found += [f"Its surrogate: {finding}" for finding in through]
    return run.notes(folder=defended.folder, findings=found)

"""The cells that ``deepsec evaluate security`` wants: attacks, defended models, and both together."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from deepsec_jax.attacks import preset
from deepsec_jax.evaluation.defense_cells import REPLAYED, UNDEFENDED, DefendedModel
from deepsec_jax.evaluation.under_test import defended_model
from deepsec_jax.model_traits import rejects
from deepsec_jax.protocols import Attack
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.attacks.jobs import jobs_of, presets
from deepsec_jax.studies.options import seconds_of
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.budget import numbers_of, place, seconds_of_job
from deepsec_jax.studies.security.cells import MORE, Attacked, Makers
from deepsec_jax.studies.security.detection import detection_jobs
from deepsec_jax.studies.security.gating.indicated import indicator_job
from deepsec_jax.studies.security.gating.noise import noise_job
from deepsec_jax.studies.security.options import Options
from deepsec_jax.studies.security.worst import largest_linf, usual_threats


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs: attacks on the undefended model first, then replays, white-box and adaptive attacks.

    The images on the undefended model are also scored by each detector among the defenses.  Within each kind
    of knowledge cheap attacks come first, each on all defenses in turn.

    Raises:
        UnfitError: a folder without a defended model of this one.
    """
    attacks = {**presets(options.attacks, run, options.preset), **_at_radii(options, run)}
    defended = [
        defended_model(folder, run.about["name"], run.dataset, like=run.model) for folder in options.defenses
    ]
    made = _made(options, run, attacks, defended, {})
    if options.budget is None:
        return made
    fit = partial(seconds_of_job, run)
    numbers = numbers_of(made, run.store.plan(), fit, n=options.n, seconds=seconds_of(options.budget))
    counted = sorted(Counter(numbers.values()).items(), reverse=True)
    run.warn(f"--budget {options.budget}: " + ", ".join(f"n = {n} in {count} cells" for n, count in counted))
    return _made(options, run, attacks, defended, numbers)


def _made(
    options: Options,
    run: Run,
    attacks: dict[str, Attack],
    defended: list[DefendedModel],
    numbers: Mapping[str, int],
) -> list[Job]:
    """Return the jobs.

    Args:
        options: of the command.
        run: the undefended model and its data.
        attacks: row name -> attack.
        defended: the defended models.
        numbers: place of a cell (:func:`~.budget.place`) -> its number of images; ``options.n`` without one.
    """
    seed, most = options.seed, options.n
    sources: dict[str, Job] = {}
    for name, attack in attacks.items():
        (sources[name],) = jobs_of(
            {name: attack}, run, n=numbers.get(place(UNDEFENDED, name), most), seed=seed,
            preset=options.preset, metrics=("mr", "mr_8bit"),
        )  # fmt: skip
    attacked = [
        Attacked(name, attacks[name], job.config, job.name, job.images) for name, job in sources.items()
    ]
    makers = Makers(
        run.store, lambda n: run.candidates(n, seed), lambda n: run.candidates_name(n, seed),
        partial(run.training_images, seed), run.dataset.image_shape, run.classes,
        run.batch_size(most), partial(notes_of, run), run.once,
    )  # fmt: skip
    on_itself = set(options.knowledge) != {REPLAYED}  # only then is a defended model attacked
    found = [*sources.values(), *(
        made(makers, run, each, n=most, seed=seed, preset=options.preset)
        for made in (indicator_job, noise_job) for each in (None, *(defended if on_itself else ()))
    )]  # fmt: skip
    guards = [
        folder for folder, model in zip(options.defenses, defended, strict=True) if rejects(model.classifier)
    ]
    scored = {job.name: job.config for name, job in sources.items() if not name.endswith(MORE)}
    look = partial(run.look, run.model, run.about["name"])
    found += detection_jobs(run, guards, scored, lambda: run.notes(findings=look()), n=most, seed=seed)
    for knowledge in options.knowledge:
        made = [
            makers.job(knowledge, each, model, numbers.get(place(knowledge, each.name, model.weights), most))
            for each in attacked for model in defended
        ]  # fmt: skip
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


def notes_of(run: Run, defended: DefendedModel) -> dict[str, Any]:
    """Return the entries of environments, with what is wrong with a defended model and its surrogate."""
    name = defended.about["name"]
    found = run.look(defended.classifier, name, gradients=defended.differentiable)
    if defended.surrogate is not defended.classifier:
        through = run.look(defended.surrogate, f"{name}, its surrogate")
        found += [f"Its surrogate: {finding}" for finding in through]
    return run.notes(folder=defended.folder, findings=found)

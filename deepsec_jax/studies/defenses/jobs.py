"""The cells of ``deepsec evaluate defenses``, and their defended models."""

from typing import Any

from deepsec_jax.evaluation.defense_cells import DefendedModel, Subset, Threat, default_eps
from deepsec_jax.evaluation.defense_jobs import Defenses, question_of
from deepsec_jax.evaluation.under_test import defended_model
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.defenses.options import Options
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.run import Run


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs of all defended models.

    Raises:
        InputError: more images requested than exist.
        DefenseError: a folder without a defended model of this base, or a damaged one.
    """
    test = len(run.dataset.test)
    for option, images in (("--n", options.n), ("--clean-n", options.clean_n or 0)):
        if images > test:
            raise InputError(
                f"{option} must be at most {test}, the number of test images of {run.dataset.name}, "
                f"got {images}"
            )
    eps = default_eps(run.channels) if options.eps is None else options.eps
    threat = Threat(
        eps=eps, n=options.n, seed=options.seed, steps=options.steps, restarts=options.restarts,
        queries=options.queries,
    )  # fmt: skip
    part = Subset(options.clean_n, options.seed) if options.clean_n not in (None, test) else None
    subjects = [
        defended_model(folder, run.about["name"], run.dataset, like=run.model) for folder in options.defenses
    ]

    def notes(subject: DefendedModel | None) -> dict[str, Any]:
        findings = _findings(subject, run, attacked=options.n > 0)
        return run.notes(findings=findings)

    made = Defenses(
        question_of(run.model, run.about, run.dataset, run.classes), run.model, run.dataset, run.store,
        run.batch_size(options.n or test), notes,
    )  # fmt: skip
    return made.jobs(subjects, threat if options.n else None, part)


def _findings(subject: DefendedModel | None, run: Run, *, attacked: bool) -> list[str]:
    """Return the problems of a defended model and its surrogate.

    A model declared as not differentiable gets no warning about its gradient: its surrogate is
    differentiated.
    """
    raw = run.look(run.model, run.about["name"], gradients=attacked)
    if subject is None:
        return raw
    name = subject.about["name"]
    found = run.look(subject.classifier, name, gradients=attacked and subject.differentiable)
    if attacked and subject.surrogate is not subject.classifier:
        through = run.look(subject.surrogate, f"{name}, its surrogate")
        found += [f"Its surrogate: {finding}" for finding in through]
    return found

"""The cells of ``deepsec evaluate ensembles``."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from deepsec_jax.evaluation.defense_cells import ADAPTIVE, WHITE_BOX, DefendedModel
from deepsec_jax.evaluation.under_test import UnfitError, defended_model
from deepsec_jax.model_traits import gives_confidences
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.attacks.jobs import jobs_of, presets
from deepsec_jax.studies.ensembles.cells import AVERAGE, CLEAN, LOGITS, Makers
from deepsec_jax.studies.ensembles.drawn import draw
from deepsec_jax.studies.ensembles.options import SIZE, Options
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.security.cells import Attacked
from deepsec_jax.studies.security.cells import Makers as SecurityMakers
from deepsec_jax.studies.security.jobs import notes_of
from deepsec_jax.tables.published import Published

BASE = "base"
"""What replayed images were made on: the undefended model."""


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs: attacks on the undefended model, answers of each defense, attacks on ensembles.

    Raises:
        UnfitError: a folder without a defended model of this one, or too few defenses with confidences.
    """
    defended = _members(options, run)
    replayed = presets(options.attacks, run, options.preset)
    whole = presets(options.whole, run, options.preset) if options.whole else {}
    every = {**replayed, **whole}
    sources = jobs_of(
        every, run, n=options.n, seed=options.seed, preset=options.preset, metrics=("mr", "mr_8bit")
    )
    attacked = {
        name: Attacked(name, attack, job.config, job.name, job.images)
        for (name, attack), job in zip(every.items(), sources, strict=True)
    }
    names = ("data", "model", "n", "seed", "candidates", "images")
    common: dict[str, Any] = {
        "candidates": partial(run.candidates, options.n, options.seed),
        "train_images": partial(run.training_images, options.seed),
        "image_shape": run.dataset.image_shape, "classes": run.classes,
        "batch_size": run.batch_size(options.n),
    }  # fmt: skip
    shared = {name: sources[0].config[name] for name in names}
    makers = Makers(run.store, shared, notes=partial(_notes, run), **common)
    by_name = {str(each.about["name"]): each for each in defended}
    ensembles = draw(
        {name: _group(name) for name in by_name}, _best(run), repeats=options.repeats, seed=options.draw
    )
    used = [each for name, each in by_name.items() if any(name in made.members for made in ensembles)]
    members = {made: [by_name[name] for name in made.members] for made in ensembles}
    found = list(sources)
    found += [makers.drawn(made, members[made], options.draw) for made in ensembles]
    found += [makers.member(each, None, {"name": CLEAN, "preset": options.preset}, CLEAN) for each in used]
    found += [makers.member(each, job, job.config["attack"], BASE) for job in sources for each in used]
    if "members" in options.ways:
        security = SecurityMakers(
            **{**common, "candidates": lambda n: run.candidates(n, options.seed)}, store=run.store,
            candidates_name=lambda n: run.candidates_name(n, options.seed), notes=partial(notes_of, run),
            once=run.once,
        )  # fmt: skip
        found += _of_members(makers, security, [attacked[name] for name in whole], used)
    combinations = {made.members: members[made] for made in ensembles}
    found += [
        makers.whole(way, attacked[name], chosen)
        for way in (AVERAGE, LOGITS)
        if way in options.ways
        for name in whole
        for chosen in combinations.values()
    ]
    return found


def _of_members(
    makers: Makers, security: SecurityMakers, attacks: Sequence[Attacked], defended: Sequence[DefendedModel]
) -> list[Job]:
    """Return the attacks on each defense alone, and every defense's answers to their images."""
    found: list[Job] = []
    for attacked in attacks:
        for each in defended:
            job = security.job(ADAPTIVE, attacked, each, attacked.n)
            job = job or security.job(WHITE_BOX, attacked, each, attacked.n)
            assert job is not None, "a white-box attack is never a copy"
            found.append(job)
            found += [
                makers.member(asked, job, attacked.config["attack"], str(each.about["name"]))
                for asked in defended
            ]
    return found


def _members(options: Options, run: Run) -> list[DefendedModel]:
    """Return the given defenses that have confidences."""
    found: dict[str, DefendedModel] = {}
    for folder in options.defenses:
        each = defended_model(folder, run.about["name"], run.dataset, like=run.model)
        name = str(each.about["name"])
        if each.rejects or not gives_confidences(each.classifier):
            run.warn(f"warning: {folder}: {name} gives no confidences, so no ensemble has it")
        elif name in found:
            raise UnfitError(f"{folder} is another {name}: give each defense once")
        else:
            found[name] = each
    if len(found) < SIZE:
        raise UnfitError(f"{len(found)} of --defenses have confidences: give at least {SIZE}")
    return list(found.values())


def _group(name: str) -> str:
    """Return the paper's category of a defense; its own name for one that the paper does not have."""
    return next(iter(Published("defenses").group(name)), name)


def _best(run: Run) -> tuple[str, ...]:
    """Return the paper's best three defenses: of MNIST for grey images, of CIFAR-10 for colour."""
    paper = Published("ensembles")
    known = paper.said(run.dataset.name, "best")
    return tuple(known or paper.said("mnist" if run.channels == 1 else "cifar10", "best"))


def _notes(run: Run, members: Sequence[DefendedModel]) -> dict[str, Any]:
    """Return the entries of environments, with the findings about each member."""
    noted = [notes_of(run, each) for each in members]
    found = [finding for notes in noted for finding in notes["findings"]]
    return {**noted[0], "findings": list(dict.fromkeys(found))}

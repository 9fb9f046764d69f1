"""The cells that ``deepsec evaluate detectors`` wants, and the attacks whose images they score."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from deepsec_jax.evaluation.defense_cells import digest
from deepsec_jax.evaluation.detector_jobs import Asked, Detectors, Sweep
from deepsec_jax.evaluation.under_test import detector_under_test
from deepsec_jax.runs.cells import ATTACK, kind_of, superseded
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.detectors.options import Options
from deepsec_jax.studies.options import InputError
from deepsec_jax.studies.run import Run

_SWEEP_N = 1000  # number of candidates of a sweep without attacks


def jobs(options: Options, run: Run) -> list[Job]:
    """Return the jobs of all detectors.

    Raises:
        InputError: no finished attacks, or a sweep over several candidate sets.
        UnfitError: a folder without a detector of this model.
    """
    watchers = [
        detector_under_test(folder, run.about["name"], run.model, run.dataset) for folder in options.detectors
    ]
    attacks = _attacks(options, run)
    sweep = _sweep(options, run, attacks)

    def notes() -> dict[str, Any]:
        return run.notes(findings=run.look(run.model, run.about["name"], gradients=sweep is not None))

    made = Detectors(
        Asked(run.dataset.name, run.about, digest(run.model), run.images()), run.model, run.dataset,
        run.store, run.batch_size(len(run.dataset.test)), notes,
    )  # fmt: skip
    return made.jobs(watchers, attacks, sweep)


def _attacks(options: Options, run: Run) -> dict[str, dict[str, Any]]:
    """Return name -> config of the requested finished attacks on this model."""
    found: dict[str, dict[str, Any]] = {}
    plan = run.store.plan()
    old = superseded(plan)
    for name, config in plan.items():
        if (
            name in old
            or kind_of(config) != ATTACK
            or config["data"] != run.dataset.name
            or not run.store.has_cell(name)
        ):
            continue
        same = config["candidates"] == run.candidates_name(int(config["n"]), int(config["seed"]))
        if same and _wanted(options, config):
            found[name] = config
    there = {str(config["attack"]["name"]) for config in found.values()}
    lacking = [name for name in options.attacks if name not in there]
    if lacking or not (found or options.sweep):
        what = ", ".join(lacking) or "any attack"
        raise InputError(
            f"{run.store.folder} has no finished images of {what} on this model: "
            f"make them with {_command(options, run, lacking)}"
        )
    return found


def _wanted(options: Options, config: Mapping[str, Any]) -> bool:
    """Tell whether an attack is one of --attacks, or without it a row of ``deepsec evaluate attacks``.

    Rows of other studies have a colon (``apgd@linf:0.1``).  They do not count by default, so that the cells
    do not depend on which study came first.
    """
    name = str(config["attack"]["name"])
    return (
        (name in options.attacks if options.attacks else ":" not in name)
        and options.n in (None, config["n"])
        and options.seed in (None, config["seed"])
        and options.preset in (None, config["attack"]["preset"])
    )


def _command(options: Options, run: Run, names: Sequence[str]) -> str:
    """Return the command that makes the attacks' images."""
    words = ["deepsec evaluate attacks", options.model]
    words += ["--attacks", *names] if names else []
    for option, value in (
        ("--n", options.n), ("--seed", options.seed), ("--preset", options.preset), ("--data", options.data),
        ("--data-dir", options.data_dir),
    ):  # fmt: skip
        words += [option, str(value)] if value is not None else []
    return " ".join([*words, "--run-dir", str(run.store.folder)])


def _sweep(options: Options, run: Run, attacks: Mapping[str, Mapping[str, Any]]) -> Sweep | None:
    """Return the requested sweep, on the attacks' candidates."""
    if not options.sweep:
        return None
    sets = {(int(config["n"]), int(config["seed"])) for config in attacks.values()}
    if len(sets) > 1:
        said = ", ".join(f"--n {n} --seed {seed}" for n, seed in sorted(sets))
        raise InputError(f"--sweep wants one candidate set, and the attacks have several: choose of {said}")
    n, seed = sets.pop() if sets else (options.n or _SWEEP_N, options.seed or 0)
    candidates = partial(run.candidates, n, seed)
    return Sweep(tuple(sorted(options.sweep)), run.candidates_name(n, seed), n, seed, candidates)

"""``deepsec evaluate defenses``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deepsec_jax.cli import InputError, models
from deepsec_jax.cli.batch_size import BatchSize, choose
from deepsec_jax.cli.batch_size import check as check_batch_size
from deepsec_jax.cli.evaluating import Stages, carry_out, show_cells
from deepsec_jax.cli.findings import look_at
from deepsec_jax.cli.options import at_least, once

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset
    from deepsec_jax.evaluation.defense_cells import Subject
    from deepsec_jax.evaluation.defense_jobs import Planned
    from deepsec_jax.runs.store import Store


@dataclass(frozen=True)
class EvaluateDefenses:
    """Compare defended models with the undefended one, on clean images and under attack.

    Clean: the paper's utility metrics over all test images, or clean-n random ones. Under attack,
    over n random ones: images replayed from the undefended model, PGD on the defended model itself, and
    an adaptive attack through the surrogate that the defense names. Each is a cell of the run directory,
    which may be one that deepsec evaluate attacks has written; the same command computes only what is
    missing.

    Attributes:
        what: What to evaluate.
        model: Folder of the undefended model; or --model.
        defenses: Folders that deepsec defend has written from this model.
        data: Data set name or path of an .npz; default the set that the model folder was trained on.
        data_dir: Where TFDS sets lie; default TFDS's own folder.
        n: Number of test images to attack, drawn at random, whether they are classified correctly or not; 0
            attacks none.
        clean_n: Number of clean test images for the utility metrics, drawn at random; default all.
        seed: Seed of images and attacks.
        eps: L-inf radius of all attacks; default 0.3 for grey images and 8/255 for coloured ones.
        steps: Steps of each run of the adaptive attack.
        restarts: Runs of the adaptive attack for each of its two losses.
        queries: Forwards of the search that ends it where a defended model has no gradient; 0 for none.
        batch_size: Images per call; auto is 64 on a CPU (fewer where images are large), elsewhere what fits.
        run_dir: Run directory; default runs/evaluate/MODEL-DATA, as for attacks.
        spec: TOML file with these options, by these names; what the command line says goes first.
        dry_run: Check everything, print the plan and the time it will take, and write nothing.
    """

    what: Annotated[Literal["attacks", "defenses", "detectors"], tyro.conf.Positional]
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    defenses: tuple[str, ...] = ()
    data: str | None = None
    data_dir: Path | None = None
    n: int = 1000
    clean_n: int | None = None
    seed: int = 0
    eps: float | None = None
    steps: int = 100
    restarts: int = 5
    queries: int = 1000
    batch_size: BatchSize = "auto"
    run_dir: Path | None = None
    spec: Path | None = None
    dry_run: bool = False

    def run(self) -> int:
        """Compute what is missing; return 1 if something failed."""
        self._check_values()
        from deepsec_jax import data
        from deepsec_jax.evaluation.column_versions import column_versions
        from deepsec_jax.evaluation.defense_cells import Part, Threat, default_eps
        from deepsec_jax.evaluation.defense_jobs import bytes_of, jobs, plan, question_of
        from deepsec_jax.runs.atomic import check_room
        from deepsec_jax.runs.runner import CELL, missing
        from deepsec_jax.runs.store import Store

        loaded = models.load_base(self.model, self.data)
        dataset = data.load(loaded.data, data_dir=self.data_dir)
        for option, images in (("--n", self.n), ("--clean-n", self.clean_n or 0)):
            if images > len(dataset.test):
                raise InputError(
                    f"{option} must be at most {len(dataset.test)}, the number of test images of "
                    f"{dataset.name}, got {images}"
                )
        classes = models.check(loaded.model, dataset)
        subjects = [_subject(folder, loaded, dataset) for folder in self.defenses]
        eps = default_eps(dataset.image_shape[2]) if self.eps is None else self.eps
        threat = Threat(
            eps=eps, n=self.n, seed=self.seed, steps=self.steps, restarts=self.restarts, queries=self.queries
        )
        part = None if self.clean_n in (None, len(dataset.test)) else Part(self.clean_n, self.seed)
        question = question_of(loaded.model, loaded.about, dataset, classes)
        cells = plan(question, subjects, threat if self.n else None, part)
        run_dir = self.run_dir or Path("runs") / "evaluate" / f"{loaded.about['name']}-{dataset.name}"
        store = Store(run_dir, column_versions())
        store.check()
        todo = {each.name: missing(store, each.name, each.groups) for each in cells}
        findings: list[str] = []
        if self.dry_run or any(todo.values()):
            findings = look_at(loaded.model, dataset, loaded.about["name"], gradients=self.n > 0)
            cells = _looked_at(cells, dataset, attacked=self.n > 0)
        if self.dry_run:
            self._show(store, cells, todo, loaded.model, dataset)
            return 0
        made = []
        if any(todo.values()):
            check_room(
                store.folder, sum(bytes_of(each, dataset) for each in cells if CELL in todo[each.name])
            )
            batch_size = choose(
                self.batch_size, loaded.model, dataset.image_shape, self.n or len(dataset.test)
            )
            made = jobs(cells, loaded.model, dataset, store, batch_size=batch_size, findings=findings)
        store.add_to_plan(each.config for each in cells)
        return carry_out(store, made, todo.keys(), todo, "cells")

    def _check_values(self) -> None:
        if not self.defenses:
            raise InputError("--defenses names no folder: give those that deepsec defend has written")
        once("--defenses", [str(Path(folder).resolve()) for folder in self.defenses])
        for option, value, least in (
            ("--n", self.n, 0), ("--seed", self.seed, 0), ("--steps", self.steps, 1),
            ("--restarts", self.restarts, 1), ("--queries", self.queries, 0),
            ("--clean-n", 1 if self.clean_n is None else self.clean_n, 1),
        ):  # fmt: skip
            at_least(option, value, least)
        if self.eps is not None and not 0 < self.eps <= 1:
            raise InputError(
                f"--eps must lie above 0 and be at most 1, the range of a pixel, got {self.eps:g}"
            )
        check_batch_size(self.batch_size)

    def _show(
        self, store: "Store", cells: "Sequence[Planned]", todo: Stages, model: Any, dataset: "Dataset"
    ) -> None:
        """Print what is there, what is missing, and how long it will take at most."""
        from deepsec_jax.cli.dry_run import time_bare_gradient
        from deepsec_jax.evaluation.defense_cells import ADAPTIVE
        from deepsec_jax.evaluation.estimate import duration
        from deepsec_jax.runs.runner import CELL

        print(f"{store.folder}: {len(cells)} cells, n = {self.n}; nothing is written")
        show_cells(store, todo)
        wanted = [each for each in cells if CELL in todo[each.name] and "access" in each.config]
        counts = {True: 0, False: 0}
        for each in wanted:
            counts[each.config["access"] == ADAPTIVE] += self.n * each.gradients
        if not sum(counts.values()):
            print("nothing to attack")
            return
        one = time_bare_gradient(model, dataset, self.batch_size, self.n)()
        pgd, adaptive = (duration(one * counts[access]) for access in (False, True))
        print(
            f"about {pgd} of PGD and at most {adaptive} of the adaptive attack, less where images fall early "
            f"({1000 * one:.3g} ms a gradient of the undefended model, measured now); clean images and "
            "compilation come on top"
        )


def _looked_at(cells: "Sequence[Planned]", dataset: "Dataset", *, attacked: bool) -> "list[Planned]":
    """Return the cells with what is found wrong with their defended models and surrogates, and print it.

    A defended model that says it has no gradient is not blamed for it: its surrogate is differentiated.
    """
    looked: dict[int, Subject] = {}
    for each in cells:
        subject = each.subject
        if subject is None or id(subject) in looked:
            continue
        name = subject.about["name"]
        found = look_at(subject.classifier, dataset, name, gradients=attacked and subject.differentiable)
        if attacked and subject.surrogate is not subject.classifier:
            through = look_at(subject.surrogate, dataset, f"{name}, its surrogate")
            found += [f"Its surrogate: {finding}" for finding in through]
        looked[id(subject)] = replace(subject, findings=tuple(found))
    return [
        each if each.subject is None else replace(each, subject=looked[id(each.subject)]) for each in cells
    ]


def _subject(folder: str, loaded: models.Loaded, dataset: "Dataset") -> "Subject":
    """Return the defended model of a folder.

    Raises:
        InputError: made from another model or other images, or it cannot be attacked on this set.
        DefenseError: no defended model, or a damaged one.
    """
    from deepsec_jax.defenses import load_defended
    from deepsec_jax.evaluation.defense_cells import subject_of

    defended = load_defended(folder)
    card = defended.card
    lacking = [name for name in ("name", "preset", "base") if not card.get(name)]
    if lacking:
        raise InputError(f"{folder}/defense.json lacks {', '.join(lacking)}: fit the defense again")
    if card["base"] != loaded.about["name"]:
        raise InputError(
            f"{folder} defends {card['base']}, not {loaded.about['name']}: give the model that it was made "
            "from, or defend this one"
        )
    trained_on = defended.saved.figures.get("trained_on", {}).get("data")
    if trained_on not in (None, dataset.digest()):
        raise InputError(
            f"{folder} was trained on other images than {dataset.name} has: name its set with --data, or "
            "defend the model on this one"
        )
    try:
        for model in (defended.classifier, defended.surrogate):
            models.check(model, dataset)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    return subject_of(defended, Path(folder).resolve().name)

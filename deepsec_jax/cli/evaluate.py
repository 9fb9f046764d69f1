"""``deepsec evaluate attacks``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deepsec_jax.cli import models
from deepsec_jax.cli.batch_size import BatchSize, choose
from deepsec_jax.cli.batch_size import check as check_batch_size
from deepsec_jax.cli.evaluating import carry_out, show_cells
from deepsec_jax.cli.findings import follow_gradients, look_at
from deepsec_jax.cli.options import at_least, once

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset
    from deepsec_jax.runs.runner import Job
    from deepsec_jax.runs.store import Store


@dataclass(frozen=True)
class Evaluate:
    """Run attacks on a model and measure them with the paper's utility metrics.

    Each attack is a cell of the run directory. The same command computes only what is missing; an attack
    that fails is recorded and the rest goes on (exit code 1); any number of processes may share one
    directory. deepsec report RUN_DIR makes tables and pages of it. deepsec evaluate defenses --help and
    deepsec evaluate detectors --help say how defended models and detectors are evaluated.

    Attributes:
        what: What to evaluate.
        model: Model folder, or package.module:function that returns a pytree model in eval mode; or --model.
        data: Data set name or path of an .npz; default the set that the model folder was trained on.
        data_dir: Where TFDS sets lie; default TFDS's own folder.
        attacks: Names, e.g. fgsm pgd fgsm@0.5; default the paper's rows that exist, then other attacks.
        n: Number of correctly classified test images to attack.
        seed: Seed of images, targets and random attacks.
        preset: Hyperparameters: the paper's tables, or an honest evaluation today.
        batch_size: Images per call; auto is 64 on a CPU (fewer where images are large), elsewhere what fits.
        metrics: Columns, see deepsec list metrics; default all.
        run_dir: Run directory; default runs/evaluate/MODEL-DATA.
        spec: TOML file with these options, by these names; what the command line says goes first.
        dry_run: Check everything, print the plan and the time it will take, and write nothing.
    """

    what: Annotated[Literal["attacks", "defenses", "detectors"], tyro.conf.Positional]
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: str | None = None
    data_dir: Path | None = None
    attacks: tuple[str, ...] = ()
    n: int = 1000
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"
    batch_size: BatchSize = "auto"
    metrics: tuple[str, ...] = ()
    run_dir: Path | None = None
    spec: Path | None = None
    dry_run: bool = False

    def run(self) -> int:
        """Compute what is missing; return 1 if something failed."""
        self._check_values()
        from deepsec_jax import data
        from deepsec_jax.evaluation.attack_jobs import cell_bytes, column_groups
        from deepsec_jax.evaluation.column_versions import column_versions
        from deepsec_jax.metrics import METRICS
        from deepsec_jax.pytree import rejects
        from deepsec_jax.runs.atomic import check_room
        from deepsec_jax.runs.runner import CELL, missing
        from deepsec_jax.runs.store import Store

        column_groups(self.metrics)  # a wrong name costs nothing
        loaded = models.load(self.model, self.data)
        can_reject = rejects(loaded.model)
        every = (name for name, column in METRICS.items() if can_reject or not column.needs_rejection)
        groups = column_groups(self.metrics or tuple(every))
        dataset = data.load(loaded.data, data_dir=self.data_dir)
        attacks = _presets(self.attacks, dataset, self.preset)
        classes = models.check(loaded.model, dataset)
        loaded.warn()
        cells = self._cells(loaded, dataset, attacks)
        folder = loaded.about["name"].replace(":", ".")
        run_dir = self.run_dir or Path("runs") / "evaluate" / f"{folder}-{dataset.name}"
        store = Store(run_dir, column_versions())
        store.check()
        todo = {name: missing(store, name, groups) for name in cells}
        findings: list[str] = []
        if self.dry_run or any(todo.values()):
            gradients = follow_gradients(attacks.values())
            findings = look_at(loaded.model, dataset, loaded.about["name"], gradients=gradients)
        if self.dry_run:
            self._show(store, cells, todo, loaded.model, dataset)
            return 0
        jobs: list[Job] = []
        if any(todo.values()):
            each = cell_bytes(self.n, dataset.image_shape, classes, sum(map(len, groups.values())))
            check_room(store.folder, each * sum(CELL in stages for stages in todo.values()))
            jobs = self._jobs(cells, groups, loaded.model, dataset, store.folder / "candidates", findings)
        store.add_to_plan(config for config, _ in cells.values())
        return carry_out(store, jobs, cells.keys(), todo, "attacks")

    def _check_values(self) -> None:
        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        check_batch_size(self.batch_size)
        once("--attacks", self.attacks)
        once("--metrics", self.metrics)

    def _cells(
        self, loaded: models.Loaded, dataset: "Dataset", attacks: dict[str, Any]
    ) -> dict[str, tuple[dict[str, Any], Any]]:
        """Return cell name -> config and attack."""
        from deepsec_jax.data import candidates_name
        from deepsec_jax.evaluation.attack_jobs import attack_config
        from deepsec_jax.evaluation.sample import split_name
        from deepsec_jax.runs.cell_files import cell_name

        candidates = candidates_name(loaded.model, dataset, self.n, self.seed)
        images = split_name(dataset.test)
        cells = {}
        for name, attack in attacks.items():
            config = attack_config(
                name, attack, preset=self.preset, data=dataset.name, model=loaded.about,
                candidates=candidates, images=images, n=self.n, seed=self.seed,
                train_digest=dataset.digest,
            )  # fmt: skip
            cells[cell_name(config)] = (config, attack)
        return cells

    def _jobs(
        self, cells: dict[str, tuple[dict[str, Any], Any]], groups: dict[str, tuple[str, ...]],
        model: Any, dataset: "Dataset", folder: Path, findings: list[str],
    ) -> "list[Job]":  # fmt: skip
        """Draw the candidates, choose the batch size, and return one job per cell."""
        from deepsec_jax.data import stored_candidates, training_sample
        from deepsec_jax.evaluation.attack_jobs import attack_job, gradient_clock

        candidates = stored_candidates(model, dataset, self.n, self.seed, folder)
        batch_size = choose(self.batch_size, model, dataset.image_shape, self.n)
        clock = gradient_clock(model, candidates, batch_size)
        return [
            attack_job(
                config, attack, model, candidates,
                groups=groups, batch_size=batch_size, gradient_seconds=clock,
                class_names=dataset.class_names, findings=findings,
                train_images=lambda: training_sample(dataset, self.seed),
            )
            for config, attack in cells.values()
        ]  # fmt: skip

    def _show(
        self, store: "Store", cells: dict[str, tuple[dict[str, Any], Any]],
        todo: dict[str, dict[str, tuple[str, ...]]], model: Any, dataset: "Dataset",
    ) -> None:  # fmt: skip
        """Print what is there, what is missing, and how long it will take."""
        from deepsec_jax.cli.dry_run import time_bare_gradient
        from deepsec_jax.evaluation.attack_table import gradients
        from deepsec_jax.evaluation.estimate import estimate
        from deepsec_jax.runs.cells import ATTACK, kind_of
        from deepsec_jax.runs.runner import CELL

        print(f"{store.folder}: {len(cells)} attacks, n = {self.n}; nothing is written")
        show_cells(store, todo)
        finished = [
            (config, store.environment(name))
            for name, config in store.plan().items()
            if kind_of(config) == ATTACK and store.has_cell(name)
        ]
        wanted = [
            (config, gradients(attack)) for name, (config, attack) in cells.items() if CELL in todo[name]
        ]
        print(estimate(wanted, finished, time_bare_gradient(model, dataset, self.batch_size, self.n)))


def _presets(names: tuple[str, ...], dataset: "Dataset", kind: str) -> dict[str, Any]:
    """Return row name -> attack; by default the table's rows that exist, then every other attack."""
    from deepsec_jax.attacks import ATTACKS, preset
    from deepsec_jax.attacks.presets import ROWS, table_of
    from deepsec_jax.catalog import UnknownName

    channels = dataset.image_shape[2]
    if names:
        return {name: preset(name, dataset.name, kind, channels=channels) for name in names}
    rows = [row for row in ROWS[table_of(dataset.name, channels)] if row.partition("@")[0] in ATTACKS]
    attacks = {}
    for row in (*rows, *(name for name in ATTACKS if name not in rows)):
        try:
            attacks[row] = preset(row, dataset.name, kind, channels=channels)
        except UnknownName:
            if "@" not in row:  # only a variant of the paper's tables may lack other hyperparameters
                raise
    return attacks

"""``deepsec evaluate detectors``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    from deepsec_jax.evaluation.detection_cells import Watcher
    from deepsec_jax.evaluation.detection_jobs import PlannedScores, Sweep
    from deepsec_jax.runs.store import Store

_OF_THE_NETWORK = (
    "trained_on", "history", "best_epoch", "validation", "test_accuracy", "test_images", "detector",
    "threshold", "clean_images", "threshold_images",
)  # fmt: skip
"""Figures of a folder that say nothing of fitting the detector, or that stand in tables anyway."""

_SWEEP_N = 1000  # candidates of a sweep where no attack's cell says how many


@dataclass(frozen=True)
class EvaluateDetectors:
    """Ask fitted detectors which images of finished attacks, and which clean ones, they flag.

    The attacks' images are those that deepsec evaluate attacks has written into the same run directory; the
    clean ones are all test images, the same for every attack, and each detector has the one threshold that
    it was fitted with. No attack here knows the detector: deepsec evaluate defenses takes the same folders
    and attacks model and detector together. The same command computes only what is missing.

    Attributes:
        what: What to evaluate.
        model: Folder of the model that the detectors guard; or --model.
        detectors: Folders that deepsec defend has written from this model for lid, fs, magnet.
        attacks: Names, e.g. fgsm pgd; default every finished attack on this model in the run directory.
        n: Only attacks on this number of candidates; default any. A sweep takes theirs, or else 1000.
        seed: Only attacks of this seed; default any. A sweep takes theirs, or else 0.
        preset: Only attacks of this kind of hyperparameters; default any.
        sweep: Radii, e.g. 0.1 0.2 0.3: FGSM at each, plain and with the best image so far carried over.
        data: Data set name or path of an .npz; default the set that the model folder was trained on.
        data_dir: Where TFDS sets lie; default TFDS's own folder.
        batch_size: Images per call; auto is 64 on a CPU (fewer where images are large), elsewhere what fits.
        run_dir: Run directory that has the attacks; default runs/evaluate/MODEL-DATA.
        spec: TOML file with these options, by these names; what the command line says goes first.
        dry_run: Check everything, print the plan and the time it will take, and write nothing.
    """

    what: Annotated[Literal["attacks", "defenses", "detectors"], tyro.conf.Positional]
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    detectors: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    n: int | None = None
    seed: int | None = None
    preset: Literal["paper", "strong"] | None = None
    sweep: tuple[float, ...] = ()
    data: str | None = None
    data_dir: Path | None = None
    batch_size: BatchSize = "auto"
    run_dir: Path | None = None
    spec: Path | None = None
    dry_run: bool = False

    def run(self) -> int:
        """Compute what is missing; return 1 if something failed."""
        self._check_values()
        from deepsec_jax import data
        from deepsec_jax.data import stored_candidates
        from deepsec_jax.evaluation.column_versions import column_versions
        from deepsec_jax.evaluation.defense_cells import digest
        from deepsec_jax.evaluation.detection_cells import Asked
        from deepsec_jax.evaluation.detection_jobs import bytes_of, detection_jobs, plan_detection
        from deepsec_jax.evaluation.sample import split_name
        from deepsec_jax.runs.atomic import check_room
        from deepsec_jax.runs.runner import CELL, missing
        from deepsec_jax.runs.store import Store

        loaded = models.load_base(self.model, self.data)
        dataset = data.load(loaded.data, data_dir=self.data_dir)
        models.check(loaded.model, dataset)
        folder = loaded.about["name"].replace(":", ".")
        run_dir = self.run_dir or Path("runs") / "evaluate" / f"{folder}-{dataset.name}"
        store = Store(run_dir, column_versions())
        store.check()
        watchers = [_watcher(folder, loaded, dataset) for folder in self.detectors]
        attacked = self._attacked(store, loaded, dataset)
        sweep = self._sweep(attacked, loaded, dataset)
        asked = Asked(dataset.name, loaded.about, digest(loaded.model), split_name(dataset.test))
        cells = plan_detection(asked, watchers, attacked, sweep, dataset)
        todo = {each.name: missing(store, each.name, {}) for each in cells}
        findings: list[str] = []
        if self.dry_run or any(todo.values()):
            findings = look_at(loaded.model, dataset, loaded.about["name"], gradients=sweep is not None)
        if self.dry_run:
            self._show(store, cells, todo, loaded.model, dataset)
            return 0
        jobs = []
        if any(todo.values()):
            check_room(store.folder, sum(bytes_of(each) for each in cells if CELL in todo[each.name]))
            batch_size = choose(self.batch_size, loaded.model, dataset.image_shape, len(dataset.test))
            jobs = detection_jobs(
                cells, loaded.model, dataset, store, batch_size=batch_size, findings=findings,
                candidates=lambda: stored_candidates(
                    loaded.model, dataset, sweep.n if sweep else 0, sweep.seed if sweep else 0,
                    store.folder / "candidates",
                ),
            )  # fmt: skip
        store.add_to_plan(each.config for each in cells)
        return carry_out(store, jobs, todo.keys(), todo, "cells")

    def _check_values(self) -> None:
        if not self.detectors:
            raise InputError(
                "--detectors names no folder: give those that deepsec defend lid, fs or magnet has written"
            )
        once("--detectors", [str(Path(folder).resolve()) for folder in self.detectors])
        once("--attacks", self.attacks)
        once("--sweep", [f"{eps:g}" for eps in self.sweep])
        if self.n is not None:
            at_least("--n", self.n, 1)
        if self.seed is not None:
            at_least("--seed", self.seed, 0)
        for eps in self.sweep:
            if not 0 < eps <= 1:
                raise InputError(
                    f"--sweep must lie above 0 and be at most 1, the range of a pixel, got {eps:g}"
                )
        check_batch_size(self.batch_size)

    def _attacked(
        self, store: "Store", loaded: models.Loaded, dataset: "Dataset"
    ) -> dict[str, dict[str, Any]]:
        """Return name -> config of the finished attacks on this model that are asked for.

        Raises:
            InputError: there are none, or not all of the named ones.
        """
        from deepsec_jax.data import candidates_name
        from deepsec_jax.runs.cells import ATTACK, kind_of

        found: dict[str, dict[str, Any]] = {}
        sets: dict[tuple[int, int], str] = {}
        for name, config in store.plan().items():
            if kind_of(config) != ATTACK or config["data"] != dataset.name or not store.has_cell(name):
                continue
            size = (int(config["n"]), int(config["seed"]))
            if size not in sets:
                sets[size] = candidates_name(loaded.model, dataset, *size)
            if config["candidates"] == sets[size] and self._wanted(config):
                found[name] = config
        there = {str(config["attack"]["name"]) for config in found.values()}
        lacking = [name for name in self.attacks if name not in there]
        if lacking or not (found or self.sweep):
            what = ", ".join(lacking) or "any attack"
            raise InputError(
                f"{store.folder} has no finished images of {what} on this model: "
                f"make them with {self._command(store, lacking)}"
            )
        return found

    def _wanted(self, config: Mapping[str, Any]) -> bool:
        return (
            (not self.attacks or config["attack"]["name"] in self.attacks)
            and self.n in (None, config["n"])
            and self.seed in (None, config["seed"])
            and self.preset in (None, config["attack"]["preset"])
        )

    def _command(self, store: "Store", names: Sequence[str]) -> str:
        """Return the command that makes the attacks' images."""
        words = ["deepsec evaluate attacks", self.model]
        words += ["--attacks", *names] if names else []
        for option, value in (
            ("--n", self.n), ("--seed", self.seed), ("--preset", self.preset), ("--data", self.data),
            ("--data-dir", self.data_dir),
        ):  # fmt: skip
            words += [option, str(value)] if value is not None else []
        return " ".join([*words, "--run-dir", str(store.folder)])

    def _sweep(
        self, attacked: Mapping[str, Mapping[str, Any]], loaded: models.Loaded, dataset: "Dataset"
    ) -> "Sweep | None":
        """Return the sweep that is asked for, on the attacks' candidates.

        Raises:
            InputError: the attacks have several candidate sets.
        """
        if not self.sweep:
            return None
        from deepsec_jax.data import candidates_name
        from deepsec_jax.evaluation.detection_jobs import Sweep

        sets = {(int(config["n"]), int(config["seed"])) for config in attacked.values()}
        if len(sets) > 1:
            said = ", ".join(f"--n {n} --seed {seed}" for n, seed in sorted(sets))
            raise InputError(
                f"--sweep wants one candidate set, and the attacks have several: choose of {said}"
            )
        n, seed = sets.pop() if sets else (self.n or _SWEEP_N, self.seed or 0)
        return Sweep(tuple(sorted(self.sweep)), candidates_name(loaded.model, dataset, n, seed), n, seed)

    def _show(
        self, store: "Store", cells: "Sequence[PlannedScores]", todo: Stages, model: Any, dataset: "Dataset"
    ) -> None:
        """Print what is there, what is missing, and how long it will take."""
        from deepsec_jax.evaluation.detection_jobs import scoring_seconds
        from deepsec_jax.evaluation.estimate import duration
        from deepsec_jax.runs.runner import CELL

        print(f"{store.folder}: {len(cells)} cells; nothing is written")
        show_cells(store, todo)
        images: dict[int, int] = {}
        watchers = {id(each.watcher): each.watcher for each in cells}
        for each in cells:
            if CELL in todo[each.name]:
                images[id(each.watcher)] = images.get(id(each.watcher), 0) + each.images
        if not images:
            print("nothing to score")
            return
        rows = min(len(dataset.test), choose(self.batch_size, model, dataset.image_shape, len(dataset.test)))
        seconds, said = 0.0, []
        for key, count in images.items():
            one = scoring_seconds(watchers[key], dataset.test.images[:rows])
            seconds += one * count
            said.append(f"{watchers[key].about['name']} {1000 * one:.3g} ms")
        print(
            f"about {duration(seconds)} of scoring for {sum(images.values())} images ({', '.join(said)} per "
            "image, measured now); compilation and FGSM's gradients come on top"
        )


def _watcher(folder: str, loaded: models.Loaded, dataset: "Dataset") -> "Watcher":
    """Return the fitted detector of a folder.

    Raises:
        InputError: made from another model or other images, no detector, or one that does not score this set.
        DefenseError: no defended model, or a damaged one.
    """
    from deepsec_jax.defenses import base_of, load_defended
    from deepsec_jax.defenses.detector import FPR, fitting_and_validation
    from deepsec_jax.evaluation.defense_cells import digest
    from deepsec_jax.evaluation.detection_cells import Watcher, threshold_of

    defended = load_defended(folder)
    card, detector = defended.card, defended.detector
    if detector is None:
        raise InputError(
            f"{folder} holds {card.get('name', 'a defense')}, which is no detector: give it to deepsec "
            "evaluate defenses"
        )
    lacking = [name for name in ("name", "preset", "base") if not card.get(name)]
    if lacking:
        raise InputError(f"{folder}/defense.json lacks {', '.join(lacking)}: fit the detector again")
    if card["base"] != loaded.about["name"] or digest(defended.saved.model) != digest(loaded.model):
        raise InputError(
            f"{folder} guards {card['base']} as it was then, not {loaded.about['name']}: give the model that "
            "it was fitted to, or fit one to this model"
        )
    threshold_of(detector)
    _check_scores(folder, detector, dataset)
    figures = defended.saved.figures
    images = figures.get("threshold_images", figures.get("clean_images"))
    if images is None:
        images = len(fitting_and_validation(base_of(defended.saved, dataset), dataset)[1])
    about = {name: card[name] for name in ("name", "preset", "class", "settings", "versions", "base")}
    noted = {name: value for name, value in figures.items() if name not in _OF_THE_NETWORK}
    return Watcher(
        about,
        detector,
        float(card["settings"].get("fpr", FPR)),
        int(images),
        Path(folder).resolve().name,
        noted,
    )


def _check_scores(folder: str, detector: Any, dataset: "Dataset") -> None:
    """Raise InputError where the detector does not give one score for each image of a data set."""
    import jax
    import jax.numpy as jnp

    images = jax.ShapeDtypeStruct((2, *dataset.image_shape), jnp.float32)
    try:
        shape = jax.eval_shape(lambda fitted, x: fitted.score(x), detector, images).shape
    except (ValueError, TypeError) as error:
        message = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder} does not score images of {dataset.name}: {message}") from None
    if shape != (2,):
        raise InputError(
            f"{folder} gives scores of shape {list(shape)} for 2 images: one per image is wanted"
        )

"""``deepsec attack``."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deepsec_jax.cli import InputError, models
from deepsec_jax.cli.batch_size import BatchSize, choose
from deepsec_jax.cli.batch_size import check as check_batch_size
from deepsec_jax.cli.findings import follow_gradients, look_at
from deepsec_jax.cli.options import at_least, once

if TYPE_CHECKING:
    from deepsec_jax.data import Candidates, Dataset
    from deepsec_jax.evaluation.attack_table import Result


@dataclass(frozen=True)
class Attack:
    """Attack a model and write adversarial examples, a table and a report.

    The folder gets settings.json, aes/ATTACK.npz, table.json and report.html. The same command goes on
    where it was interrupted; other settings need another folder.

    Attributes:
        model: Model folder, or package.module:function that returns a pytree model in eval mode; or --model.
        data: Data set name or path of an .npz; default the set that the model folder was trained on.
        data_dir: Where TFDS sets lie; default TFDS's own folder.
        attacks: Names, e.g. fgsm pgd fgsm@0.5; default all, see deepsec list attacks.
        n: Number of correctly classified test images to attack.
        seed: Seed of images, targets and random attacks.
        preset: Hyperparameters: the paper's tables, or an honest evaluation today.
        batch_size: Images per call; auto is 64 on a CPU (fewer where images are large), elsewhere what fits.
        run_dir: Folder to write; default one under runs/attack named after the settings.
        spec: TOML file with these options, by these names; what the command line says goes first.
        dry_run: Check everything, print the plan and the time it will take, and write nothing.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: str | None = None
    data_dir: Path | None = None
    attacks: tuple[str, ...] = ()
    n: int = 200
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"
    batch_size: BatchSize = 128
    run_dir: Path | None = None
    spec: Path | None = None
    dry_run: bool = False

    def run(self) -> None:
        """Attack, or go on with what an interrupted run left."""
        from deepsec_jax import attacks, data
        from deepsec_jax.evaluation.attack_table import hyperparameters
        from deepsec_jax.runs.atomic import check_room, write_atomic
        from deepsec_jax.runs.cells import ATTACK, KINDS

        names = self.attacks or tuple(attacks.ATTACKS)
        self._check_values(names)
        loaded = models.load(self.model, self.data)
        dataset = data.load(loaded.data, data_dir=self.data_dir)
        channels = dataset.image_shape[2]
        presets = {name: attacks.preset(name, dataset.name, self.preset, channels=channels) for name in names}
        models.check(loaded.model, dataset)
        loaded.warn()
        settings = {
            "model": loaded.about["name"], "data": loaded.data,
            "n": self.n, "seed": self.seed, "preset": self.preset, "version": KINDS[ATTACK].version,
            "candidates": data.candidates_name(loaded.model, dataset, self.n, self.seed),
            "attacks": {name: hyperparameters(attack) for name, attack in presets.items()},
        }  # fmt: skip
        folder = self.run_dir or _default_folder(settings)
        _check_folder(folder, settings)
        findings = _findings_of(folder)
        if findings is None:
            gradients = follow_gradients(presets.values())
            findings = look_at(loaded.model, dataset, settings["model"], gradients=gradients)
        if self.dry_run:
            self._show(folder, settings, presets, loaded.model, dataset)
            return
        check_room(folder, 4 * self.n * len(presets) * math.prod(dataset.image_shape))
        candidates = data.stored_candidates(loaded.model, dataset, self.n, self.seed, folder / "candidates")
        if not (folder / "settings.json").exists():
            write_atomic(folder / "settings.json", lambda path: path.write_text(_as_json(settings)))
        results = self._results(folder, loaded.model, candidates, presets, dataset)
        self._write(folder, settings, loaded, results, candidates, dataset, findings)

    def _check_values(self, names: tuple[str, ...]) -> None:
        at_least("--n", self.n, 1)
        at_least("--seed", self.seed, 0)
        check_batch_size(self.batch_size)
        once("--attacks", names)

    def _show(
        self, folder: Path, settings: dict[str, Any], presets: dict[str, Any], model: Any, dataset: "Dataset"
    ) -> None:
        """Print what is there, what is missing, and how long it will take."""
        from deepsec_jax.cli.dry_run import time_bare_gradient
        from deepsec_jax.evaluation.attack_table import gradients
        from deepsec_jax.evaluation.estimate import estimate

        print(f"{folder}: {len(presets)} attacks, n = {self.n}; nothing is written")
        missing = [name for name in presets if not (folder / "aes" / f"{name}.npz").is_file()]
        for name in presets:
            print(f"{'missing' if name in missing else 'present'}  {name}")
        wanted = []
        for name in missing:
            attack = {
                "name": name, "class": type(presets[name]).__name__,
                "hyperparameters": settings["attacks"][name],
            }  # fmt: skip
            wanted.append(({**settings, "attack": attack}, gradients(presets[name])))
        print(estimate(wanted, (), time_bare_gradient(model, dataset, self.batch_size, self.n)))

    def _results(
        self, folder: Path, model: Any, candidates: "Candidates", presets: dict[str, Any],
        dataset: "Dataset",
    ) -> "list[Result]":  # fmt: skip
        from deepsec_jax.data import training_sample
        from deepsec_jax.evaluation.attack_table import run_attack
        from deepsec_jax.progress import progress
        from deepsec_jax.randomness import root_key

        batch_size = choose(self.batch_size, model, candidates.images.shape[1:], len(candidates))
        results = []
        with progress("attack", len(presets) * len(candidates)) as advance:
            for name, attack in presets.items():
                path = folder / "aes" / f"{name}.npz"
                if path.is_file():
                    results.append(_read(path))
                    advance(len(candidates), f"{name} done before")
                    continue
                advance(0, name)
                result = run_attack(
                    name, attack, model, candidates,
                    key=root_key(self.seed),
                    train_images=lambda: training_sample(dataset, self.seed),
                    batch_size=batch_size, on_batch=advance,
                )  # fmt: skip
                _save(path, result, candidates)
                results.append(result)
        return results

    def _write(
        self, folder: Path, settings: dict[str, Any], loaded: models.Loaded, results: "list[Result]",
        candidates: "Candidates", dataset: "Dataset", findings: list[str],
    ) -> None:  # fmt: skip
        from rich.console import Console

        from deepsec_jax.attacks import preset_card
        from deepsec_jax.evaluation.machine import machine_facts
        from deepsec_jax.runs.atomic import write_atomic
        from deepsec_jax.studies.attack_page import render, terminal_table, write_report
        from deepsec_jax.studies.attacks.checks import spoiled

        rows = [result.row for result in results]
        title = f"Attacks on {settings['model']} with {settings['data']}, n = {self.n}"
        console = Console()
        console.print(terminal_table(rows, title))
        about = [*loaded.warnings, *(f"{settings['model']}: {finding}" for finding in findings)]
        said = [*about, *spoiled(rows)]
        for warning in said:
            console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        table, report = folder / "table.json", folder / "report.html"
        if not table.exists():
            figures = [row.to_dict() for row in rows]
            content = {"settings": settings, "rows": figures, "warnings": said, "findings": findings}
            write_atomic(table, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))
        if not report.exists():
            cards = {
                name: preset_card(name, dataset.name, self.preset, channels=dataset.image_shape[2])
                for name in settings["attacks"]
            }
            facts = {
                **loaded.facts, "Data": settings["data"], "Hyperparameters": self.preset,
                "Candidates": f"{self.n} correctly classified test images, seed {self.seed}",
                **machine_facts(),
            }  # fmt: skip
            page = render(title, facts, results, cards, candidates, dataset.class_names, said=about)
            write_report(report, page)
        console.print(f"report {report}", soft_wrap=True)


def _findings_of(folder: Path) -> list[str] | None:
    """Return what an earlier run has found wrong with the model; None if none has finished."""
    table = folder / "table.json"
    if not table.is_file():
        return None
    return [str(finding) for finding in json.loads(table.read_text()).get("findings", [])]


def _default_folder(settings: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    model = settings["model"].replace(":", ".")
    return Path("runs") / "attack" / f"{model}-{Path(settings['data']).stem}-{settings['preset']}-{digest}"


def _as_json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=1) + "\n"


def _check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """See that a folder is new, or holds the beginnings of a run with the same settings."""
    note = folder / "settings.json"
    if note.is_file():
        if note.read_text() != _as_json(settings):
            raise InputError(
                f"{folder} holds results of another model or other settings (settings.json): "
                "choose another --run-dir or remove it"
            )
        return
    ours = ("candidates", ".aside-")  # the second is what a kill leaves of a file that was being written
    if folder.exists() and any(not path.name.startswith(ours) for path in folder.iterdir()):
        raise InputError(f"{folder} exists and holds something else: choose another --run-dir or empty it")


_ARRAYS = ("x_adv", "targets", "predicted", "confidence", "success", "probabilities", "no_answer")


def _save(path: Path, result: "Result", candidates: "Candidates") -> None:
    import numpy as np

    from deepsec_jax.runs.atomic import write_atomic

    arrays = {name: getattr(result, name) for name in _ARRAYS}
    arrays |= {"labels": candidates.labels, "rows": candidates.rows}
    figures = np.array(json.dumps(result.row.to_dict()))
    write_atomic(path, lambda file: np.savez(file, **arrays, figures=figures))


def _read(path: Path) -> "Result":
    import zipfile

    import numpy as np

    from deepsec_jax.evaluation.attack_table import Result, Row

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            row = Row.from_dict(json.loads(str(archive["figures"])))
            arrays = {name: archive[name] for name in _ARRAYS if name in archive or name != "no_answer"}
            return Result(row=row, **{"no_answer": np.zeros(len(arrays["success"])), **arrays})
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and it is made again") from None

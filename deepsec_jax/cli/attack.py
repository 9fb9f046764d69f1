"""``deepsec attack``."""

import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deepsec_jax.cli import InputError

if TYPE_CHECKING:
    from deepsec_jax.data import Candidates, Dataset
    from deepsec_jax.evaluation.attack_table import Result


@dataclass(frozen=True)
class Attack:
    """Attack a model and write adversarial examples, a table and a report.

    The folder gets settings.json, aes/ATTACK.npz, table.json and report.html. The same command goes on
    where it was interrupted; other settings need another folder.

    Attributes:
        model: Model folder, or package.module:function that returns a pytree model in eval mode.
        data: Data set name or path of an .npz; default the set that the model folder was trained on.
        data_dir: Where TFDS sets lie; default TFDS's own folder.
        attacks: Names, e.g. fgsm pgd fgsm@0.5; default all, see deepsec list attacks.
        n: Number of correctly classified test images to attack.
        seed: Seed of images, targets and random attacks.
        preset: Hyperparameters: the paper's tables, or an honest evaluation today.
        batch_size: Images per call.
        run_dir: Folder to write; default one under runs/attack named after the settings.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: str | None = None
    data_dir: Path | None = None
    attacks: tuple[str, ...] = ()
    n: int = 200
    seed: int = 0
    preset: Literal["paper", "strong"] = "paper"
    batch_size: int = 128
    run_dir: Path | None = None

    def run(self) -> None:
        """Attack, or go on with what an interrupted run left."""
        from deepsec_jax import attacks, data
        from deepsec_jax.evaluation.attack_table import hyperparameters

        names = self.attacks or tuple(attacks.ATTACKS)
        self._check_values(names)
        model, facts, dataset_name = _load_model(self.model, self.data)
        dataset = data.load(dataset_name, data_dir=self.data_dir)
        channels = dataset.image_shape[2]
        presets = {name: attacks.preset(name, dataset.name, self.preset, channels=channels) for name in names}
        _check_model(model, dataset)
        settings = {
            "model": Path(self.model).name, "data": dataset_name,
            "n": self.n, "seed": self.seed, "preset": self.preset,
            "candidates": data.candidates_name(model, dataset, self.n, self.seed),
            "attacks": {name: hyperparameters(attack) for name, attack in presets.items()},
        }  # fmt: skip
        folder = self.run_dir or _default_folder(settings)
        _check_folder(folder, settings)
        candidates = data.stored_candidates(model, dataset, self.n, self.seed, folder / "candidates")
        if not (folder / "settings.json").exists():
            _write_aside(folder / "settings.json", lambda path: path.write_text(_as_json(settings)))
        results = self._results(folder, model, candidates, presets)
        self._write(folder, settings, facts, results, candidates, dataset)

    def _check_values(self, names: tuple[str, ...]) -> None:
        for option, value in (("--n", self.n), ("--batch-size", self.batch_size)):
            if value < 1:
                raise InputError(f"{option} must be at least 1, got {value}")
        if self.seed < 0:
            raise InputError(f"--seed must be at least 0, got {self.seed}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"--attacks names {', '.join(twice)} more than once: name each attack once")

    def _results(
        self, folder: Path, model: Any, candidates: "Candidates", presets: dict[str, Any]
    ) -> "list[Result]":
        import jax

        from deepsec_jax.evaluation.attack_table import run_attack
        from deepsec_jax.progress import progress

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
                    key=jax.random.key(self.seed), batch_size=self.batch_size, on_batch=advance,
                )  # fmt: skip
                _save(path, result, candidates)
                results.append(result)
        return results

    def _write(
        self, folder: Path, settings: dict[str, Any], facts: dict[str, str], results: "list[Result]",
        candidates: "Candidates", dataset: "Dataset",
    ) -> None:  # fmt: skip
        from rich.console import Console

        from deepsec_jax.attacks import preset_card
        from deepsec_jax.evaluation.demo import machine_facts
        from deepsec_jax.evaluation.report import render, terminal_table, warnings, write_report

        rows = [result.row for result in results]
        title = f"Attacks on {settings['model']} with {settings['data']}, n = {self.n}"
        console = Console()
        console.print(terminal_table(rows, title))
        for warning in warnings(rows):
            console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        table, report = folder / "table.json", folder / "report.html"
        if not table.exists():
            figures = [row.to_dict() for row in rows]
            content = {"settings": settings, "rows": figures, "warnings": warnings(rows)}
            _write_aside(table, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))
        if not report.exists():
            cards = {
                name: preset_card(name, dataset.name, self.preset, channels=dataset.image_shape[2])
                for name in settings["attacks"]
            }
            facts = {
                **facts, "Data": settings["data"], "Hyperparameters": self.preset,
                "Candidates": f"{self.n} correctly classified test images, seed {self.seed}",
                **machine_facts(),
            }  # fmt: skip
            write_report(report, render(title, facts, results, cards, candidates, dataset.class_names))
        console.print(f"report {report}", soft_wrap=True)


def _load_model(name: str, dataset: str | None) -> tuple[Any, dict[str, str], str]:
    """Return the model, what a page says about it, and the name of the data set."""
    if ":" in name and not Path(name).exists():
        if dataset is None:
            raise InputError(f"{name} carries no data set: name one with --data")
        return _call(name), {"Model": name}, dataset
    from deepsec_jax.evaluation.demo import model_facts
    from deepsec_jax.training import load_model

    saved = load_model(name)
    return saved.model, model_facts(saved), dataset or saved.recipe.data


def _call(name: str) -> Any:
    """Return what ``package.module:function`` returns; the current folder is searched too."""
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"cannot import {module_name} ({error}): give package.module:function") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{module_name} has no function {function_name!r} that returns a model")
    return function()


def _check_model(model: Any, dataset: "Dataset") -> None:
    """Check the model against the images before any compute: kind, mode, shapes, NaN in the weights."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from deepsec_jax.attacks.call import check_model, check_shapes
    from deepsec_jax.pytree import example_keys, reseed

    images, labels = jnp.zeros((2, *dataset.image_shape)), jnp.zeros(2, jnp.int32)
    where = f"the model on images {'x'.join(map(str, dataset.image_shape))}"
    _ours(where, lambda: check_model(model))
    model = reseed(model, example_keys(jax.random.key(0), 2))
    _ours(where, lambda: jax.eval_shape(partial(check_shapes, model), images, labels))
    for leaf in jax.tree.leaves(model):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all()):
            raise InputError("the model has NaN or infinite weights: train it again or load another one")
    for half, split in (("train", dataset.train), ("test", dataset.test)):
        low, high = int(np.min(split.labels)), int(np.max(split.labels))
        classes = jax.eval_shape(lambda m, x: m(x), model, images).shape[-1]
        if low < 0 or high >= classes:
            raise InputError(
                f"{half} labels range over {low} .. {high}, but the model has classes 0 .. {classes - 1}: "
                "name the data set it was trained on with --data"
            )


def _ours(where: str, check: Callable[[], Any]) -> None:
    """Run a check of the library, whose ValueError or TypeError says what to do."""
    try:
        check()
    except (ValueError, TypeError) as error:
        message = str(error).strip().partition("\n")[0]
        raise InputError(f"{where}: {message}") from None


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
    if folder.exists() and any(path.name != "candidates" for path in folder.iterdir()):
        raise InputError(f"{folder} exists and holds something else: choose another --run-dir or empty it")


def _write_aside(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that a file that is there is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".aside-") as aside:
        written = Path(aside) / path.name
        write(written)
        written.rename(path)


_ARRAYS = ("x_adv", "targets", "predicted", "confidence", "success")


def _save(path: Path, result: "Result", candidates: "Candidates") -> None:
    import numpy as np

    arrays = {name: getattr(result, name) for name in _ARRAYS}
    arrays |= {"labels": candidates.labels, "rows": candidates.rows}
    figures = np.array(json.dumps(result.row.to_dict()))
    _write_aside(path, lambda file: np.savez(file, **arrays, figures=figures))


def _read(path: Path) -> "Result":
    import zipfile

    import numpy as np

    from deepsec_jax.evaluation.attack_table import Result, Row

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            row = Row.from_dict(json.loads(str(archive["figures"])))
            return Result(row=row, **{name: archive[name] for name in _ARRAYS})
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and it is made again") from None

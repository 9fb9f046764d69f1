"""``deepsec defend``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from deepsec_jax.cli import InputError, models
from deepsec_jax.studies.options import at_least, check_distributed

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset
    from deepsec_jax.defenses import ModelFolder
    from deepsec_jax.training import Recipe


@dataclass(frozen=True)
class Defend:
    """Fit a defense; an interrupted training resumes, a finished one is only shown.

    Attributes:
        defense: Name of a defense, e.g. pat or pat@free, see deepsec list defenses.
        model: Folder of the model to defend, which deepsec train has written; or --model. rt, pd, rc, lid, fs
            and magnet can also be put around a network that nat, eat, pat, dd or igr has trained.
        data: Data set name or path of an .npz; default the set that the model was trained on.
        data_dir: Folder of TFDS sets; default TFDS's own.
        preset: Hyperparameters: DEEPSEC's, the original paper's, or small ones for two cores.
        seed: Seed of all random numbers.
        distributed: Train with all processes of jax.distributed; start the same command in each, with one
            folder that all of them see.
        run_dir: Model folder to write; default runs/defenses/DEFENSE-PRESET-MODEL.
        spec: TOML file with these options, by these names; the command line takes precedence.
        dry_run: Print the remaining training and its estimated time, and write nothing.
    """

    defense: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEFENSE")]
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: str | None = None
    data_dir: Path | None = None
    preset: Literal["paper", "strong", "small"] = "paper"
    seed: int = 100
    distributed: bool = False
    run_dir: Path | None = None
    spec: Path | None = None
    dry_run: bool = False

    def run(self) -> None:
        """Fit the defense and print its folder and accuracy."""
        at_least("--seed", self.seed, 0)
        if self.distributed:
            check_distributed("all", dry_run=self.dry_run)
            from deepsec_jax.cli.outcomes import agree

            models.join_processes()
            agree(self._fit)
        else:
            self._fit()

    def _fit(self) -> None:
        from deepsec_jax import data, defenses
        from deepsec_jax.placement import leads
        from deepsec_jax.randomness import root_key
        from deepsec_jax.runs.atomic import check_room

        found = _base_folder(self.model)
        saved = found.saved
        dataset = data.load(self.data or saved.recipe.data, data_dir=self.data_dir, size=saved.image_size)
        channels = dataset.image_shape[2]
        defense: Any = defenses.preset(self.defense, dataset.name, self.preset, channels=channels)
        _check_stack(self.model, found, defense)
        folder = self.run_dir or (
            Path("runs") / "defenses" / f"{self.defense}-{self.preset}-{Path(self.model).resolve().name}"
        )
        base = defenses.base_of(saved, dataset)
        if self.dry_run:
            _show(defense, saved.recipe, dataset, folder)
            return
        if not folder.exists():
            check_room(folder.parent)
        card = {
            "name": self.defense, "preset": self.preset, "base": Path(self.model).resolve().name,
        }  # fmt: skip
        fitted = defenses.fit_into(folder, defense, base, dataset, key=root_key(self.seed), card=card)
        if not leads():
            return
        said = _accuracy(defenses.ModelFolder(fitted.classifier, fitted.saved, fitted))
        before = 100 * saved.figures["test_accuracy"]
        print(
            f"{folder}: {defense.card.name} ({self.preset}) on {dataset.name}, {said}, "
            f"without it {before:.2f} %"
        )


def _accuracy(found: "ModelFolder") -> str:
    """Return the accuracy of a fitted defense as text."""
    from deepsec_jax.defenses.base import REJECTED

    figures = found.saved.figures
    if found.test_accuracy is None:
        return "test accuracy not known: this detector was fitted by an earlier version"
    refused = f" ({100 * figures[REJECTED]:.2f} % rejected)" if REJECTED in figures else ""
    return f"test accuracy {100 * found.test_accuracy:.2f} % of n = {figures['test_images']}{refused}"


def _base_folder(model: str) -> "ModelFolder":
    """Return the contents of the folder of the model to defend.

    Raises:
        InputError: a function, or a model that is more than its network.
    """
    if ":" in model and not Path(model).exists():
        raise InputError(
            f"{model} is a function, and a defense trains its network anew: give a folder that deepsec train "
            "has written"
        )
    found = models.load_base(model, None).folder
    assert found is not None
    return found


def _check_stack(model: str, found: "ModelFolder", defense: Any) -> None:
    """Raise InputError for a second defense that would replace the first one's network."""
    if found.defended is None or getattr(defense, "keeps_network", False):
        return
    from deepsec_jax.defenses import DEFENSES

    card = found.defended.card
    keeping = [name for name, kind in DEFENSES.items() if getattr(kind, "keeps_network", False)]
    raise InputError(
        f"{model} is a network trained by {card['class']}, and {defense.card.name} trains it again, which "
        f"would replace {card['class']}: give {card['base']}'s folder, or one of {', '.join(keeping)}"
    )


def _show(defense: Any, recipe: "Recipe", dataset: "Dataset", folder: Path) -> None:
    """Print the remaining epochs and their estimated time."""
    from deepsec_jax import models
    from deepsec_jax.cli.dry_run import time_bare_gradient
    from deepsec_jax.cli.train import epochs_left
    from deepsec_jax.defenses import PD, MagNet
    from deepsec_jax.defenses.base import changed_recipe
    from deepsec_jax.defenses.cost import gradients
    from deepsec_jax.runs.estimate import duration

    if isinstance(defense, PD):
        _show_pixelcnn(defense, dataset, folder)
        return
    if isinstance(defense, MagNet):
        _show_autoencoders(defense, dataset, folder)
        return
    if not hasattr(defense, "changes"):
        print(f"{folder}: {defense.card.name} of {recipe.model} on {dataset.name} trains nothing")
        return
    changed = changed_recipe(defense, recipe)
    left = epochs_left(folder, changed.epochs)
    images = round(len(dataset.train) * (1 - changed.validation))
    network = models.build(changed.model, dataset.image_shape, dataset.classes, seed=changed.seed)
    network.eval()
    each = time_bare_gradient(network, dataset, changed.batch_size, changed.batch_size)()
    per_image = gradients(defense)
    print(
        f"{folder}: {left} of {changed.epochs} epochs of {images} images are left, "
        f"{defense.card.name} of {changed.model} on {dataset.name}; nothing is written"
    )
    print(
        f"about {duration(left * images * each * per_image)}, counting {per_image:g} gradients per image "
        f"({1000 * each:.3g} ms each, measured now); plus compilation, validation and further "
        "networks of the defense"
    )


def _show_pixelcnn(defense: Any, dataset: "Dataset", folder: Path) -> None:
    """The same for PD, which trains no classifier: one step of its PixelCNN is timed."""
    from deepsec_jax.cli.train import epochs_left
    from deepsec_jax.defenses.base import changed_recipe
    from deepsec_jax.defenses.cost import pixelcnn_seconds
    from deepsec_jax.defenses.part_folders import part_folder
    from deepsec_jax.defenses.pd import PART, recipe_of
    from deepsec_jax.runs.estimate import duration

    recipe = changed_recipe(defense, recipe_of(dataset), part=PART)
    learned = part_folder(folder, PART)
    left = epochs_left(learned, recipe.epochs)
    images = round(len(dataset.train) * (1 - recipe.validation))
    print(
        f"{learned}: {left} of {recipe.epochs} epochs of {images} images are left, a PixelCNN on "
        f"{dataset.name}; nothing is written"
    )
    each = pixelcnn_seconds(defense, dataset, rows=min(8, recipe.batch_size))
    print(
        f"about {duration(left * images * each)}, counting {1000 * each:.3g} ms per image and step, measured "
        "now; plus compilation and validation"
    )


def _show_autoencoders(defense: Any, dataset: "Dataset", folder: Path) -> None:
    """The same for MagNet, which trains no classifier either; its autoencoders are not timed."""
    from deepsec_jax.cli.train import epochs_left
    from deepsec_jax.defenses.base import changed_recipe
    from deepsec_jax.defenses.magnet import part_of, recipe_of
    from deepsec_jax.defenses.part_folders import part_folder

    recipe = changed_recipe(defense, recipe_of(dataset))
    for number, kind in enumerate(defense.autoencoders):
        learned = part_folder(folder, part_of(number))
        left = epochs_left(learned, recipe.epochs)
        print(
            f"{learned}: {left} of {recipe.epochs} epochs are left, a {kind} autoencoder on "
            f"{dataset.name}; nothing is written"
        )

"""``deepsec train``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deepsec_jax.studies.options import Devices, at_least, check_devices, check_distributed

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset
    from deepsec_jax.training import Recipe


@dataclass(frozen=True)
class Train:
    """Train a model from a recipe; an interrupted run resumes, a finished one is only shown.

    Attributes:
        recipe: Name of a recipe, see deepsec list recipes.
        data: Another data set than the recipe's: a name, a path of an .npz, or a folder of images.
        image_size: Height and width to which a folder of images is resized; stored in the recipe.
        data_dir: Folder of TFDS sets; default TFDS's own.
        devices: Devices to train on; batches are split over them if their number divides the batch.
        distributed: Train with all processes of jax.distributed; start the same command in each, with one
            folder that all of them see.
        run_dir: Model folder to write; default runs/models/RECIPE.
        spec: TOML file with these options, by these names; the command line takes precedence.
        dry_run: Print the remaining training and its estimated time, and write nothing.
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    data: str | None = None
    image_size: tuple[int, int] | None = None
    data_dir: Path | None = None
    devices: Devices = "all"
    distributed: bool = False
    run_dir: Path | None = None
    spec: Path | None = None
    dry_run: bool = False

    def run(self) -> None:
        """Train and print the model's folder and accuracy."""
        check_devices(self.devices)
        if self.distributed:
            check_distributed(self.devices, dry_run=self.dry_run)
            from deepsec_jax.cli.models import join_processes
            from deepsec_jax.cli.outcomes import agree

            join_processes()
            agree(self._train)
        else:
            self._train()

    def _train(self) -> None:
        from deepsec_jax import data, training
        from deepsec_jax.cli.models import used
        from deepsec_jax.placement import leads
        from deepsec_jax.runs.atomic import check_room

        recipe = _on_other_data(training.recipe(self.recipe), self.data, self.image_size)
        folder = self.run_dir or Path("runs") / "models" / recipe.name
        dataset = data.load(recipe.data, data_dir=self.data_dir, size=recipe.image_size)
        if self.dry_run:
            _show(recipe, dataset, folder)
            return
        if not folder.exists():
            check_room(folder.parent)
        devices = None if self.distributed else used(self.devices)
        saved = training.train(recipe, dataset, folder, devices=devices)
        if not leads():
            return
        figures = saved.figures
        print(
            f"{folder}: {recipe.model} on {recipe.data}, "
            f"test accuracy {100 * figures['test_accuracy']:.2f} % of n = {figures['test_images']}, "
            f"epoch {figures['best_epoch'] + 1} of {recipe.epochs}"
        )


def _on_other_data(recipe: "Recipe", data: str | None, image_size: tuple[int, int] | None) -> "Recipe":
    """Return the recipe for another data set or image size, under a name of its own."""
    if data is None and image_size is None:
        return recipe
    if image_size is not None:
        for side in image_size:
            at_least("--image-size", side, 1)
    source = data or recipe.data
    size = "" if image_size is None else f"-{image_size[0]}x{image_size[1]}"
    name = f"{recipe.name}-on-{Path(source).resolve().stem}{size}"
    return replace(recipe, name=name, data=source, image_size=image_size)


def _show(recipe: "Recipe", dataset: "Dataset", folder: Path) -> None:
    """Print the remaining epochs and their estimated time."""
    from deepsec_jax import models, training
    from deepsec_jax.cli.dry_run import time_bare_gradient
    from deepsec_jax.runs.estimate import duration

    if folder.exists():
        saved = training.load_network(folder)
        print(f"{folder}: holds a finished model of recipe {saved.recipe.name}; nothing is written")
        return
    left = epochs_left(folder, recipe.epochs)
    images = round(len(dataset.train) * (1 - recipe.validation))
    print(
        f"{folder}: {left} of {recipe.epochs} epochs of {images} images are left, {recipe.model} on "
        f"{recipe.data}; nothing is written"
    )
    model = models.build(recipe.model, dataset.image_shape, dataset.classes, seed=recipe.seed)
    model.eval()
    each = time_bare_gradient(model, dataset, recipe.batch_size, recipe.batch_size)()
    print(
        f"about {duration(left * images * each)}, counting one bare gradient per image "
        f"({1000 * each:.3g} ms, measured now); plus compilation and validation"
    )


def epochs_left(folder: Path, epochs: int) -> int:
    """Return the number of remaining epochs of an unfinished training."""
    kept = folder.with_name(folder.name + ".partial") / "epochs"
    finished = [int(path.name) for path in kept.iterdir() if path.name.isdigit()] if kept.is_dir() else []
    return epochs - (1 + max(finished, default=-1))

"""``deepsec train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Train:
    """Train a model from a recipe; a run that was interrupted goes on, a finished one is only shown.

    Attributes:
        recipe: Name of a recipe, see deepsec list recipes.
        data_dir: Where TFDS sets lie; default TFDS's own folder.
        run_dir: Model folder to write; default runs/models/RECIPE.
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    data_dir: Path | None = None
    run_dir: Path | None = None

    def run(self) -> None:
        """Train and print the model's folder and accuracy."""
        from deepsec_jax import data, training

        recipe = training.recipe(self.recipe)
        folder = self.run_dir or Path("runs") / "models" / recipe.name
        saved = training.train(recipe, data.load(recipe.data, data_dir=self.data_dir), folder)
        figures = saved.figures
        print(
            f"{folder}: {recipe.model} on {recipe.data}, "
            f"test accuracy {100 * figures['test_accuracy']:.2f} % of n = {figures['test_images']}, "
            f"epoch {figures['best_epoch'] + 1} of {recipe.epochs}"
        )

"""``deepsec prepare``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deepsec_jax.cli import InputError


@dataclass(frozen=True)
class Prepare:
    """Download and prepare a TFDS image set, so that the other verbs find it by name.

    Needs the extra: pip install "deepsec_jax[prepare]".

    Attributes:
        name: Name of a TFDS image classification set, e.g. mnist, cifar10, fashion_mnist.
        data_dir: Folder of TFDS sets; default TFDS's own.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    data_dir: Path | None = None

    def run(self) -> None:
        """Prepare the set and print its path."""
        if self.name == "digits":
            print("digits is embedded: nothing to prepare")
            return
        try:
            import tensorflow_datasets as tfds

            # Reading without TensorFlow needs array_record files, which are not TFDS's default.
            builder = tfds.builder(self.name, data_dir=self.data_dir, file_format="array_record")
            features = builder.info.features
            if features is None or "image" not in features or "label" not in features:
                raise InputError(f"{self.name} has no features image and label: pick an image set")
            builder.download_and_prepare()
        except ImportError as error:
            raise InputError(
                f'preparing {self.name} needs the extra: pip install "deepsec_jax[prepare]" '
                f"({error.name or error} is missing)"
            ) from None
        except ValueError as error:
            if type(error).__name__ != "DatasetNotFoundError":
                raise
            raise InputError(
                f"unknown data set {self.name!r}: see https://www.tensorflow.org/datasets/catalog/overview"
            ) from None
        print(f"{self.name} lies in {builder.data_path}")

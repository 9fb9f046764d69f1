"""What ``--dry-run`` measures: the time of one gradient."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deepsec_jax.studies.options import BatchSize

if TYPE_CHECKING:
    from deepsec_jax.data import Dataset


def time_bare_gradient(model: Any, dataset: "Dataset", size: BatchSize, n: int) -> Callable[[], float]:
    """Return a function that times one bare gradient on the first test images, in seconds per image.

    Args:
        model: the model under attack.
        dataset: whose test images to take.
        size: images per call, or ``auto``.
        n: number of images of the run; no batch is larger.
    """

    def measure() -> float:
        import jax.numpy as jnp

        from deepsec_jax.data import unit_images
        from deepsec_jax.evaluation.measured import bare_gradient_seconds
        from deepsec_jax.studies.batch_size import choose

        rows = min(n, len(dataset.test), choose(size, model, dataset.image_shape, n))
        images, labels = unit_images(dataset.test.images[:rows]), dataset.test.labels[:rows]
        return bare_gradient_seconds(model, jnp.asarray(images), jnp.asarray(labels), repeats=3)

    return measure

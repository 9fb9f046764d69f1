"""Image sets as arrays, and the candidate sets that attacks are run on."""

from deepsec_jax.data.candidates import (
    Candidates,
    candidates_name,
    draw_candidates,
    make_candidates,
    stored_candidates,
    training_sample,
)
from deepsec_jax.data.datasets import DataError, Dataset, Split, unit_images
from deepsec_jax.data.examples import from_examples
from deepsec_jax.data.table import DATASETS, load

__all__ = [
    "DATASETS",
    "Candidates",
    "DataError",
    "Dataset",
    "Split",
    "candidates_name",
    "draw_candidates",
    "from_examples",
    "load",
    "make_candidates",
    "stored_candidates",
    "training_sample",
    "unit_images",
]


def __dir__() -> list[str]:
    return __all__

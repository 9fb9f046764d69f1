"""The columns of the transferability study: values of one image of a transfer cell."""

from dataclasses import replace

import numpy as np

from deepsec_jax.metrics import Column
from deepsec_jax.runs.cells import Cell


def _reached(cell: Cell) -> np.ndarray:
    return np.asarray(cell.arrays["reached"], np.float64)


def _wrong(cell: Cell) -> np.ndarray:
    return np.asarray(np.minimum(cell.arrays["wrong"], cell.arrays["clean"]), np.float64)


def _confidence(cell: Cell) -> np.ndarray:
    """Return the confidence of images that transferred; NaN for the others."""
    found = np.where(cell.arrays["reached"] >= 0.5, cell.arrays["confidence"], np.nan)
    return np.asarray(found, np.float64)


MR = Column(
    "transfer", "mr", "MR", "share of the images that fool the attacked model on which this model is "
    "fooled, too: any wrong class, or the target class of a targeted attack; the clean image does not do so",
    "V-A", "share", "higher", "successful", _reached, rate=True,
)  # fmt: skip
ACAC = Column(
    "transfer_acac", "acac", "ACAC", "mean probability that this model gives to the class found, over "
    "the images that transferred", "V-A", "1", "higher", "successful", _confidence, bounds=(0.0, 1.0),
    needs_confidences=True,
)  # fmt: skip
WRONG = Column(
    "transfer_wrong", "mr", "Any wrong", "of a targeted attack: share of the images that fool the "
    "attacked model to which this model gives any wrong class, and the right one to the clean image", "ours",
    "share", "higher", "successful", _wrong, rate=True,
)  # fmt: skip
ALL = replace(
    MR, name="transfer_all", title="Of all n", section="ours", over="all",
    formula="share of all n images on which this model is fooled; of the attacked model its own MR",
)  # fmt: skip
WRONG_ALL = replace(
    WRONG, name="transfer_wrong_all", title="Any wrong, of n", over="all",
    formula="of a targeted attack: share of all n images to which this model gives any wrong class, and the "
    "right one to the clean image",
)  # fmt: skip

COLUMNS = (MR, ACAC, WRONG, ALL, WRONG_ALL)

"""A cell: one attack on one model with one candidate set and one seed, as it lies in a run directory.

RUN/cells/NAME/config.json        what decides the result; NAME ends in its digest
RUN/cells/NAME/environment.json   versions, device, batch size, times: what does not
RUN/cells/NAME/arrays.npz         adversarial images and what the model says of them
RUN/columns/NAME/COLUMN.npy       values of one metric column, float64 [N]
RUN/failed/NAME/*.json            errors of attempts that failed
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

ARRAYS = ("x_adv", "x", "labels", "targets", "rows", "success", "probabilities")
"""x_adv, x: float32 [N, H, W, C]; labels, targets (-1: none), rows of the test split: int32 [N];
success: float32 [N]; probabilities on x_adv: float32 [N, K]."""


@dataclass(frozen=True)
class AttackCell:
    """A cell as it was read from its folder, or one that failed.

    Attributes:
        name: folder name.
        config: ``data``, ``model`` (``name``; of a model folder also ``network``, ``recipe``,
            ``test_accuracy``), ``attack`` (``name`` of the preset row, ``class``, ``preset`` kind,
            ``hyperparameters``), ``n``, ``seed``, ``candidates``.
        environment: ``versions``, ``device``, ``batch_size``, ``class_names``, ``seconds``,
            ``compile_seconds``, ``gradient_seconds``, ``gradients``, ``forwards``, ``started``, ``finished``.
        arrays: name -> array, the names of :data:`ARRAYS`; empty if it failed.
        columns: metric column -> values [N].
        error: one line, or None.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    error: str | None = None

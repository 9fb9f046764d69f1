"""The paper's Tables XVI, VI and VII (detectors) as data, and why ours may differ from them.

The numbers and the reasons lie in ``published_detectors.toml``; rows go by the names of ``attacks.ROWS``,
columns by those of ``metrics.DETECTION_METRICS``.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from deepsec_jax.evaluation.published_file import (
    Printed,
    Reason,
    contents,
    label_of,
    one_line,
    place_of,
    reasons_for,
)

_contents = partial(contents, "published_detectors.toml")

_FIRST = 1  # of a row: the number of examples stands before


LACKING = "table of detectors on"
"""What a data set without a table has none of."""


def table_of(dataset: str) -> Mapping[str, Any] | None:
    """Return the paper's table of a data set: ``table`` (its title), ``data``, ``recipe``; None without."""
    found: Mapping[str, Any] | None = _contents()["tables"].get(dataset)
    return found


def table_title(dataset: str) -> str:
    """Return the title of the paper's table of a data set that has one, e.g. ``Table XVI (MNIST)``."""
    table = _contents()["tables"][dataset]
    return f"{table['table']} ({table['data']})"


def sweep_title(dataset: str) -> str:
    """Return the title of the paper's table of radii; empty for a data set that it does not have."""
    sweep = _contents()["sweep"]
    return f"{sweep['table']}, {_contents()['tables'][dataset]['data']}" if dataset in sweep else ""


def rows_of(dataset: str) -> tuple[str, ...]:
    """Return the names of the attacks in the table's order; none for a set without a table."""
    return tuple(_contents()["tables"].get(dataset, {}).get("rows", ()))


def detectors() -> tuple[str, ...]:
    """Return the names of the paper's detectors."""
    return tuple(_contents()["detectors"])


def label(detector: str) -> str:
    """Return the paper's name of a detector, with its variant if it is one."""
    return label_of(_contents()["labels"], detector)


def position(detector: str) -> int:
    """Return the place of a detector in the paper's order; one that it does not have comes last."""
    return place_of(_contents()["detectors"], detector.partition("@")[0])


def examples(dataset: str, row: str) -> int | None:
    """Return how many examples the paper counts in a row, adversarial and normal; None without one."""
    table = _contents()["tables"].get(dataset, {}).get("rows", {})
    return int(table[row][0]) if row in table else None


def printed(dataset: str, row: str, detector: str, column: str) -> Printed:
    """Return what the paper prints where our figure stands, as a share.

    Args:
        dataset: data set name.
        row: preset name of the attack.
        detector: preset name of the detector; a variant stands beside the numbers of its detector.
        column: name in ``metrics.DETECTION_METRICS``.
    """
    known = _contents()
    table, name = known["tables"].get(dataset), detector.partition("@")[0]
    if table is None:
        return Printed(math.nan, f"the paper has no table of detectors on {dataset}")
    if row not in table["rows"] or name not in known["detectors"]:
        return Printed(math.nan, "no row of the paper's table")
    if column not in known["columns"]:
        return Printed(math.nan, "no column of the paper's table")
    place = len(known["columns"]) * known["detectors"].index(name) + known["columns"].index(column)
    return Printed(float(table["rows"][row][_FIRST + place]) / 100)


def printed_sweep(dataset: str, eps: float, detector: str, column: str) -> Printed:
    """Return the AUC that the paper prints for FGSM at a radius, as a share; arguments as :func:`printed`."""
    known, name = _contents(), detector.partition("@")[0]
    if column != "auc" or name not in known["detectors"]:
        return Printed(math.nan, "no column of the paper's table")
    for line in known["sweep"].get(dataset, ()):
        if math.isclose(line[0], eps, abs_tol=1e-6):
            return Printed(float(line[2 + known["detectors"].index(name)]) / 100)
    return Printed(math.nan, "no row of the paper's table")


def reasons(dataset: str, row: str, detector: str, column: str) -> tuple[Reason, ...]:
    """Return why a number may differ from the printed one, the most special reasons first."""
    name = detector.partition("@")[0]
    return reasons_for(_contents()["reasons"], data=dataset, rows=row, detectors=name, columns=column)


def notes(dataset: str) -> tuple[str, ...]:
    """Return what a reader should know of the paper's table of a data set."""
    return tuple(one_line(entry["text"]) for entry in _contents()["notes"] if dataset in entry["data"])

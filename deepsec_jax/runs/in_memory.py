"""Jobs without a run directory: each cell is computed and returned."""

from collections.abc import Callable, Sequence
from typing import Any

from deepsec_jax.batches import silent
from deepsec_jax.runs.cells import Cell, short_name
from deepsec_jax.runs.runner import Job, computed


def compute_cells(
    jobs: Sequence[Job], on_batch: Callable[[int, str], Any] = lambda images, name: None
) -> list[Cell]:
    """Compute all cells and their columns, in order.

    Args:
        jobs: the cells that are wanted; none may be computed from another one's.
        on_batch: called after every batch with its number of images and the name of the cell.

    Raises:
        Exception: the error of a job, with a note that names it.
    """
    for job in jobs:
        job.ready()
    return [_cell(job, on_batch) for job in jobs]


def _cell(job: Job, on_batch: Callable[[int, str], Any]) -> Cell:
    name = short_name(job.config)
    try:
        environment, arrays = computed(job, lambda images: on_batch(images, name))
        columns = {
            column: values
            for names in job.groups.values()
            for column, values in job.measure(environment, arrays, names, silent).items()
        }
    except Exception as error:
        error.add_note(f"while evaluating {name!r}")
        raise
    return Cell(job.name, job.config, environment, arrays, columns)

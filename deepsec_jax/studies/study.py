"""The declaration of a study, used by ``cli/evaluate.py`` and ``report.py``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepsec_jax.runs.cells import Cell
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.options import RunOptions
from deepsec_jax.studies.run import Run
from deepsec_jax.tables.checks import Check
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.published import UNPUBLISHED, Published
from deepsec_jax.tables.table import Section


def _none(options: Any, run: Run) -> list[Job]:
    del options, run
    return []


@dataclass(frozen=True)
class Study:
    """One evaluation, from the command to the page.

    Attributes:
        name: of its files, e.g. ``defenses``.
        kinds: of its cells.
        title: heading of its page.
        sections: ``sections(cells, times=...)``, the tables.
        checks: of each section.
        paper: the paper's numbers.
        fields: of a line of CSV, before the figure's.
        overview: section, id -> blocks of the page between tables and details.
        details: section, id, times -> details of each attack, defense or detector on the page.
        heading: of the details.
        intro: text under that heading.
        better: heading of the column for the better direction.
        fields_after: of a line of CSV, between the figure's and the error.
        options: class of its command-line options.
        jobs: options, run -> jobs of its cells.
        of_network: whether its model must be only a network, since defenses are built on it.
        unit: plural name of its cells.
        beside: kinds of other studies' cells that it also reads.
    """

    name: str
    kinds: tuple[str, ...]
    title: str
    sections: Callable[..., list[Section]]
    checks: Sequence[Check]
    fields: tuple[str, ...]
    overview: Callable[[Section, str], list[Block]]
    details: Callable[[Section, str, bool], list[Detail]]
    heading: str
    intro: str
    better: str
    paper: Published = UNPUBLISHED
    fields_after: tuple[str, ...] = ()
    options: type[RunOptions] = RunOptions
    jobs: Callable[[Any, Run], list[Job]] = _none
    of_network: bool = False
    unit: str = "cells"
    beside: tuple[str, ...] = ()

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that it reads; none if it has no cell of its own."""
        own = any(cell.kind in self.kinds for cell in cells)
        return [cell for cell in cells if own and cell.kind in (*self.kinds, *self.beside)]

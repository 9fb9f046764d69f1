"""What a study declares; ``report.py`` does the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepsec_jax.runs.cells import Cell
from deepsec_jax.tables.checks import Check
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.published import Published
from deepsec_jax.tables.table import Section


@dataclass(frozen=True)
class Study:
    """One evaluation.

    Attributes:
        name: of its files, e.g. ``defenses``.
        kinds: of the cells that it reads.
        title: heading of its page.
        sections: ``sections(cells, times=...)``, the tables.
        checks: what to look for in each section.
        paper: the paper's numbers.
        fields: of a line of CSV, before the figure's.
        fields_after: of a line of CSV, between the figure's and the error.
        overview: section, id -> what the page shows between tables and details.
        details: section, id, times -> what the page shows of each attack, defense or detector.
        heading: of the details.
        intro: what stands under that heading.
        better: heading of the direction of columns.
    """

    name: str
    kinds: tuple[str, ...]
    title: str
    sections: Callable[..., list[Section]]
    checks: Sequence[Check]
    paper: Published
    fields: tuple[str, ...]
    overview: Callable[[Section, str], list[Block]]
    details: Callable[[Section, str, bool], list[Detail]]
    heading: str
    intro: str
    better: str
    fields_after: tuple[str, ...] = ()

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that it reads."""
        return [cell for cell in cells if cell.kind in self.kinds]

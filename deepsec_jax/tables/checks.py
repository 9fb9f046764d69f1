"""Checks of a section: warnings about its figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deepsec_jax.runs.cells import Cell, short_name
from deepsec_jax.tables.table import FAILED, Figure, Section


def always(section: Section) -> bool:
    """Return True: the check applies to every section."""
    del section
    return True


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        find: a section -> one sentence per finding.
        sound: sentence for a page without findings; may be empty.
        when: whether the check applies to a section.
    """

    find: Callable[[Section], list[str]]
    sound: str = ""
    when: Callable[[Section], bool] = always


def warnings(section: Section, checks: Iterable[Check]) -> list[str]:
    """Return the findings of all checks."""
    return [text for check in checks for text in check.find(section)]


def sound(section: Section, checks: Iterable[Check]) -> str:
    """Return the sentences of checks that apply."""
    return ", ".join(check.sound for check in checks if check.sound and check.when(section))


def failed_cells(tables: str = "the tables lack") -> Check:
    """Return the check for failed cells; ``tables`` names the tables without their figures."""

    def find(section: Section) -> list[str]:
        return [
            f"{short_name(cell.config)}: the cell failed, so {tables} its figures: {cell.error}"
            for cell in section.cells
            if cell.error is not None
        ]

    return Check(find, "no failed cell and no empty figure")


def model_findings(who: Callable[[Cell], str]) -> Check:
    """Return the check for findings about models before their first attack, each once.

    Args:
        who: cell -> name of its model.
    """

    def find(section: Section) -> list[str]:
        said = (
            f"{who(cell)}: {finding}"
            for cell in section.cells
            for finding in cell.environment.get("findings", ())
        )
        return list(dict.fromkeys(said))

    return Check(find)


def changed_settings() -> Check:
    """Return the check for settings that differ from the preset's."""

    def find(section: Section) -> list[str]:
        return [
            f"{label}: {', '.join(names)} differ from the {kind} preset."
            for label, names, kind in section.changed
        ]

    return Check(find)


def missing_values(*kinds: str, every: str = "") -> Check:
    """Return the check for figures that are n/a: one line per reason, columns and rows.

    Args:
        kinds: of the checked tables.
        every: name of all finished rows together, e.g. ``every attack``; empty lists them.
    """

    def find(section: Section) -> list[str]:
        found = []
        for key, span in section.spans().items():
            rows = [
                (row.name, [row.figures[key][column.name] for column in table.columns])
                for table in section.tables
                for row in table.rows
                if table.kind in kinds and row.error is None and key in row.figures
            ]
            whole = [name for name, _ in rows]
            for (reason, titles), names in _lacking(rows).items():
                who = every if every and names == whole else ", ".join(dict.fromkeys(names))
                about = f"{span.label}: " if key else ""
                found.append(f"{about}{titles}: n/a, n = 0 ({reason}) for {who}.")
        return found

    return Check(find)


TOLD = (FAILED, "no defense", "cannot reject")
"""Reasons that need no warning: another warning covers them, or nothing is wrong."""


def _lacking(rows: Iterable[tuple[str, Sequence[Figure]]]) -> dict[tuple[str, str], list[str]]:
    """Return (reason, titles of columns) -> names of the rows with figures n/a for that reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, figures in rows:
        by_reason: dict[str, list[str]] = {}
        for figure in figures:
            if figure.absent and figure.absent not in TOLD:
                by_reason.setdefault(figure.absent, []).append(figure.column.title)
        for reason, titles in by_reason.items():
            found.setdefault((reason, ", ".join(titles)), []).append(name)
    return found


GREY = "0.5 or more; at that radius any image can be made plain grey, so"
"""Why such a radius says nothing about the model."""

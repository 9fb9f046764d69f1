"""Tables as a piece of HTML for a notebook: no page around it, and styles that reach nothing else."""

from collections.abc import Iterable, Sequence

from deepsec_jax.tables.page import OVER, table_view, template
from deepsec_jax.tables.table import Section


def to_html(sections: Sequence[Section], warnings: Sequence[Iterable[str]]) -> str:
    """Return the tables of sections with their warnings.

    Args:
        sections: the tables.
        warnings: of each section, one sentence each.
    """
    parts = [
        {
            "section": section,
            "warnings": list(said),
            "tables": [table_view(table, {}) for table in section.tables if table.rows],
        }
        for section, said in zip(sections, warnings, strict=True)
    ]
    html: str = template("notebook.html", over=lambda word: OVER.get(word, word)).render(parts_of_run=parts)
    return html

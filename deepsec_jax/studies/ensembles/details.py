"""What the page shows of each replayed attack on ensembles."""

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.studies.settings import described
from deepsec_jax.tables.page import Detail, every_figure
from deepsec_jax.tables.table import Section


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return all figures of each replayed attack."""
    del anchor, times
    spans = {span.key: span for table in section.tables if table.kind == "replayed" for span in table.spans}
    return [
        Detail(
            key=row.key, label=row.label, aside="" if row.label == row.name else row.name,
            about=described(ATTACKS.get(row.name.partition("@")[0])), figure=row.base,
            blocks=tuple(
                every_figure(row.figures[key].values(), title=span.label) for key, span in spans.items()
            ),
        )
        for row in section.rows("replayed")
    ]  # fmt: skip

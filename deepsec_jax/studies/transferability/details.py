"""What the page shows of transfer: curves against steps and confidence, and all figures of each attack."""

from collections.abc import Sequence

from markupsafe import Markup

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.studies.settings import described
from deepsec_jax.tables import build, plots
from deepsec_jax.tables.page import Block, Detail, every_figure
from deepsec_jax.tables.table import Row, Section

_CURVES = (
    "The share of all n images that fool the original model, and the mean of that share over the other "
    "models, for the same attack with more steps or a larger confidence."
)


def overview(section: Section, anchor: str) -> list[Block]:
    """Return the curves of transfer against effort, one chart per attack."""
    charts = []
    for number, (group, rows) in enumerate(
        build.grouped(section.rows("effort"), lambda row: row.group).items()
    ):
        done = [row for row in rows if row.error is None]
        if len(done) < 2:
            continue
        curves = {"original": _points(done, "original"), "mean of the others": _points(done, "average")}
        svg = plots.shares(f"{anchor}-e{number}", group[1], curves)
        charts.append({"title": f"{group[0]}, {group[1]}", "svg": Markup(svg)})
    return (
        [Block("charts", {"charts": charts, "large": True}, "Transfer against effort", _CURVES)]
        if charts
        else []
    )


def _points(rows: Sequence[Row], span: str) -> list[tuple[float, float]]:
    figures = [(row.record["effort"], row.figures[span]["transfer_all"].summary) for row in rows]
    return [(float(effort), 100 * summary.mean) for effort, summary in figures if summary.n]


def details(section: Section, anchor: str, times: bool) -> list[Detail]:
    """Return all figures of each attack on the original model."""
    del anchor, times
    spans = {span.key: span for table in section.tables if table.kind == "transfer" for span in table.spans}
    return [
        Detail(
            key=row.key, label=row.label, aside="" if row.label == row.name else row.name,
            about=described(ATTACKS.get(row.name.partition("@")[0])), figure=row.base,
            errors=(row.error,) if row.error else (),
            blocks=tuple(
                every_figure(row.figures[key].values(), title=span.label) for key, span in spans.items()
            ) if row.error is None else (),
        )
        for row in section.rows("transfer")
    ]  # fmt: skip

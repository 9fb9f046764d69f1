"""A study with one row per cell: its tables and its page need no code of their own."""

from collections.abc import Callable, Sequence
from typing import Any

from deepsec_jax.metrics import Column, summarise
from deepsec_jax.runs.cells import Cell
from deepsec_jax.runs.runner import Job
from deepsec_jax.studies.options import RunOptions
from deepsec_jax.studies.run import Run
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.checks import Check, failed_cells, missing_values, model_findings
from deepsec_jax.tables.page import Block, Detail, every_figure
from deepsec_jax.tables.published import Printed
from deepsec_jax.tables.table import Row, Section, Span, Table

NOT_PRINTED = "not in the paper"


def plain_study(
    name: str,
    title: str,
    columns: Sequence[Column],
    *,
    options: type[RunOptions],
    jobs: Callable[[Any, Run], list[Job]],
    heading: str = "Name",
    checks: Sequence[Check] = (),
) -> Study:
    """Return a study whose cells of kind ``name`` are the rows of one table per model and data set.

    A cell's config is ``run.config(name, row=..., ...)``: ``row`` is the label of its row.

    Args:
        name: of the study, of its files and of its kind of cell.
        title: heading of the page and of the table.
        columns: of the table; a cell has one value per image of each.
        options: options of the command line.
        jobs: options, run -> one job per row.
        heading: of the column of row labels.
        checks: further checks of each section.
    """

    def sections(cells: Sequence[Cell], *, times: bool = True) -> list[Section]:
        groups = build.grouped(cells, lambda cell: build.decided_by(_shared(cell)))
        return [_section(group, title, heading, columns, name, times) for group in groups.values()]

    return Study(
        name=name, kinds=(name,), title=title, sections=sections,
        checks=(
            failed_cells(), model_findings(lambda cell: build.name_of(cell.config["model"])),
            missing_values(name), *checks,
        ),
        fields=("data", "model", "row", "cell"), overview=lambda section, anchor: [], details=_details,
        heading=heading, intro="", better="Better", options=options, jobs=jobs,
    )  # fmt: skip


def _shared(cell: Cell) -> dict[str, Any]:
    return {key: cell.config.get(key) for key in ("data", "model", "images")}


def _section(
    cells: Sequence[Cell], title: str, heading: str, columns: Sequence[Column], kind: str, times: bool
) -> Section:
    config = cells[0].config
    model, data = build.name_of(config["model"]), build.name_of(config["data"])
    about = f"{title}: {model}, {data}"
    rows = tuple(_row(cell, columns, times) for cell in cells)
    table = Table(
        kind=kind, title=about, heading=heading, base="n", rows=rows, spans=(Span(tuple(columns)),),
        fields={"data": data, "model": model},
    )  # fmt: skip
    return Section(
        title=about, note="", facts=build.facts(cells, {}, times=times), fields={"data": data},
        tables=(table,), cells=tuple(cells), kinds=(kind,),
    )  # fmt: skip


def _row(cell: Cell, columns: Sequence[Column], times: bool) -> Row:
    label = str(cell.config["row"])
    n = len(next(iter(cell.arrays.values()), ()))
    figures = {}
    for column in columns:
        values = cell.columns.get(column.name)
        summary = None if values is None else summarise(column, values, cell.arrays.get("success", values))
        absent = "failed" if cell.error is not None else "not measured"
        figures[column.name] = build.figure(
            column, summary, absent, Printed(float("nan"), NOT_PRINTED), cell=cell
        )
    environment = {"environment": cell.environment} if times else {}
    return Row(
        key=cell.name, name=label, label=label, figures={"": figures}, cells={"": cell}, n=n, base=str(n),
        error=cell.error, fields={"row": label},
        record={"row": label, "cell": cell.name, "error": cell.error, "config": cell.config, **environment},
    )  # fmt: skip


def _details(section: Section, anchor: str, times: bool) -> list[Detail]:
    del anchor, times
    (table,) = section.tables
    return [
        Detail(
            key=row.key, label=row.label, figure=f"n = {row.n}", errors=(row.error,) if row.error else (),
            blocks=() if row.error else (_config(row.cells[""]), every_figure(row.figures[""].values())),
        )
        for row in table.rows
    ]  # fmt: skip


def _config(cell: Cell) -> Block:
    plain = {key: str(value) for key, value in cell.config.items() if isinstance(value, int | float | str)}
    return Block("facts", plain, "Settings")

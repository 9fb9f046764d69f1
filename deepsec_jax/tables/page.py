"""HTML reports: sections of tables, then the details of each attack, defense or detector.

A page loads nothing: styles are inline, pictures are PNG data URIs, plots are inline SVG.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from deepsec_jax.metrics import Column
from deepsec_jax.tables import numbers
from deepsec_jax.tables.build import grouped
from deepsec_jax.tables.published import Published, Reason
from deepsec_jax.tables.table import Figure, Row, Section, Table

OVER = {"all": "all n", "successful": "hits"}
"""Short names of the examples of a column's mean."""


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        kind: ``fields`` (hyperparameters with sources), ``facts``, ``lines``, ``charts``, ``pictures``,
            ``figures``, ``table``, ``findings`` or ``model_inputs``.
        content: input of the template of that kind.
        title: heading; empty for none.
        intro: one or two sentences.
    """

    kind: str
    content: Any
    title: str = ""
    intro: str = ""


@dataclass(frozen=True)
class Detail:
    """The details of one attack, defense or detector.

    Attributes:
        key: of the row or span that links here.
        label: heading.
        aside: small text beside the heading.
        about: its description and source.
        figure: figure beside the heading.
        errors: of failed cells.
        blocks: from top to bottom.
    """

    key: str
    label: str
    aside: str = ""
    about: str = ""
    figure: str = ""
    errors: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class View:
    """A section of a page.

    Attributes:
        section: the tables.
        warnings: about them.
        sound: sentences of the checks, if there is no warning.
        blocks: between the tables and the details.
        details: of rows or spans; the i-th has the anchor :func:`anchor_of` (section's, i).
    """

    section: Section
    warnings: Sequence[str]
    sound: str
    blocks: Sequence[Block]
    details: Sequence[Detail]


def charts_block(
    drawn: Iterable[tuple[str, str]], title: str = "", intro: str = "", *, large: bool = True
) -> list[Block]:
    """Return the block of drawings (title, SVG); nothing if there are none."""
    charts = [{"title": name, "svg": Markup(svg)} for name, svg in drawn]
    return [Block("charts", {"charts": charts, "large": large}, title, intro)] if charts else []


def anchor_of(section: str, index: int) -> str:
    """Return the id of a section's detail."""
    return f"{section}-a{index}"


def page(
    title: str, views: Sequence[tuple[str, View]], *, file: str, heading: str, intro: str, better: str,
    paper: Published, times: bool,
) -> str:  # fmt: skip
    """Return the page.

    Args:
        title: heading of the page.
        views: id and view of each section.
        file: name of the data files in the same folder, without suffix.
        heading: of the details, e.g. ``Attacks``.
        intro: text under that heading.
        better: heading of the column for the better direction, naming the side.
        paper: has notes on columns.
        times: whether times are shown.
    """
    names = _told_apart([view.section for _, view in views])
    parts = [_part(*each, paper) | {"name": name} for each, name in zip(views, names, strict=True)]
    return template("page.html", over=lambda word: OVER.get(word, word)).render(
        title=title, parts_of_run=parts, file=file, heading=heading, intro=intro, better=better, times=times
    )


def template(name: str, **filters: Any) -> Template:
    """Return a template of this package; values are escaped."""
    environment = Environment(
        loader=PackageLoader("deepsec_jax.tables"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(filters)
    return environment.get_template(name)


def _part(anchor: str, view: View, paper: Published) -> dict[str, Any]:
    """Return the template's input for a section."""
    section = view.section
    anchors = {detail.key: anchor_of(anchor, index) for index, detail in enumerate(view.details)}
    reasons = _reasons((figure for table in section.tables for figure in table.figures()), anchor)
    columns: dict[str, Column] = {
        column.name: column for table in section.tables if table.rows for column in table.columns
    }
    return {
        "anchor": anchor, "view": view, "section": section, "reasons": reasons, "compares": bool(reasons),
        "tables": [table_view(table, anchors) for table in section.tables if table.rows],
        "details": [(anchors[detail.key], detail) for detail in view.details],
        "columns": [(column, " ".join(paper.notes(column=column.name))) for column in columns.values()],
        "notes": paper.notes(data=section.fields["data"]) if reasons else (),
    }  # fmt: skip


def table_view(table: Table, anchors: Mapping[str, str]) -> dict[str, Any]:
    """Return the template's input for a table; ``anchors`` are those of rows and spans that have one."""
    return {
        "table": table,
        "spans": [(span, anchors.get(span.key)) for span in table.spans],
        "labelled": any(span.label for span in table.spans),
        # Cards of a phone have a line per span, unless each span is one figure.
        "blocks": len({span.key for span in table.spans}) > 1
        and max(len(span.columns) for span in table.spans) > 1,
        "width": sum(len(span.columns) for span in table.spans),
        "findings": any(row.findings for row in table.rows),
        "groups": [
            (", ".join(group), [_line(row, table, anchors.get(row.key)) for row in rows])
            for group, rows in grouped(table.rows, lambda row: row.group).items()
        ],
    }  # fmt: skip


def _line(row: Row, table: Table, anchor: str | None) -> dict[str, Any]:
    """Return the template's input for a row."""
    return {
        "row": row, "anchor": anchor, "small": _small(row, table),
        "cells": [
            {**figure_view(figure), "beside": under, "n": _own_n(figure, row, table),
             "label": f"{span.label} {figure.column.title}" if span.key else figure.column.title}
            for span in table.spans
            for figure, under in zip(row.of(span), numbers.beside(row, span.columns), strict=True)
        ],
    }  # fmt: skip


def _small(row: Row, table: Table) -> str:
    """Return the text under the name of a row."""
    if row.error is not None:
        return "failed"
    if not table.base:
        return ""
    hits = "" if row.hits is None else f", hits {row.hits}"
    return f"{'ε = ' + row.base + ', ' if table.base == 'ε' else ''}n {row.n}{hits}"


def _own_n(figure: Figure, row: Row, table: Table) -> int | None:
    """Return the n of a figure if it differs from the row's."""
    usual = {"all": row.n, "successful": row.hits}.get(figure.column.over) if table.base else None
    shown = figure.summary.n and (not table.base or (usual is not None and figure.summary.n != usual))
    return figure.summary.n if shown else None


def figure_view(figure: Figure) -> dict[str, Any]:
    """Return one formatted figure with the paper's and the reasons for a difference."""
    interval = numbers.interval(figure.column, figure.summary)
    return {
        "figure": figure,
        "mean": numbers.number(figure.column, figure.summary.mean),
        "interval": interval,
        "short": numbers.short(interval).removeprefix("n/a, "),
        "published": numbers.published(figure),
        "difference": numbers.difference(figure),
        "inside": bool(figure.reasons) and figure.inside,
    }


def every_figure(figures: Iterable[Figure], *, compares: bool = True, title: str = "All metrics") -> Block:
    """Return the block of all figures of a row, with n, interval and the paper's."""
    return Block(
        "figures", {"figures": [figure_view(figure) for figure in figures], "compares": compares}, title
    )


def _reasons(figures: Iterable[Figure], anchor: str) -> dict[str, tuple[str, Reason]]:
    """Return label -> (id in the page, reason) of all reasons of differences, in the order of first use.

    Figures need none where the paper's lies in our interval.
    """
    found: dict[str, Reason] = {}
    for figure in figures:
        if not figure.inside:
            found |= {reason.label: reason for reason in figure.reasons if reason.label not in found}
    return {label: (f"{anchor}-r{index}", reason) for index, (label, reason) in enumerate(found.items())}


def _told_apart(sections: Sequence[Section]) -> list[str]:
    """Return the titles of a table of contents; equal titles are extended by the facts that differ."""
    told = []
    for section in sections:
        namesakes = [other.facts for other in sections if other.title == section.title]
        differing = (
            text
            for label, text in section.facts.items()
            if any(facts.get(label) != text for facts in namesakes)
        )
        told.append(", ".join((section.title, *differing)))
    return told

"""The site of a run directory: the page of every study and of the remarks, and an index of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepsec_jax.runs.cells import ATTACK, TRANSFER, Cell, kind_of
from deepsec_jax.runs.store import read_cells
from deepsec_jax.studies.column_versions import column_versions
from deepsec_jax.studies.remarks.tables import REMARKS
from deepsec_jax.studies.report import files, views_of, write_texts
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.table import STUDIES
from deepsec_jax.tables.page import View, template

INDEX = "index.html"


@dataclass(frozen=True)
class Page:
    """One study in the index.

    Attributes:
        study: of the page.
        views: id and view of each section.
    """

    study: Study
    views: Sequence[tuple[str, View]]


def shown_by(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells of a study's page.

    Attacks that another study has made for itself are left to its page: rows with a colon
    (``bim@steps:5``), and attacks on other models than the one whose images are judged on others.
    """
    originals = {str(cell.config["original"]) for cell in cells if kind_of(cell.config) == TRANSFER}

    def is_own(cell: Cell) -> bool:
        if study.kinds != (ATTACK,) or kind_of(cell.config) != ATTACK:
            return True
        usual = ":" not in str(cell.config["attack"]["name"])
        return usual and (not originals or str(cell.config["model"]["name"]) in originals)

    return [cell for cell in cells if is_own(cell)]


def write_site(
    run_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    title: str,
    note: str = "",
    stages: Sequence[tuple[str, str, Sequence[str]]] = (),
    times: bool = True,
) -> Path:
    """Write the pages, tables and index of a run directory, over earlier ones; no model is run.

    Args:
        run_dir: a run directory.
        out_dir: folder of the site.
        title: heading of the index.
        note: a sentence under the heading.
        stages: name, purpose and commands of each stage that made the run directory.
        times: whether to keep values that depend on the clock.

    Returns:
        The path of the index.

    Raises:
        StoreError: ``run_dir`` is not a run directory or damaged, or ``out_dir`` cannot be written.
    """
    cells = read_cells(run_dir, column_versions())
    studies = (study for study in (REMARKS, *STUDIES.values()) if study.of(cells))
    every = (Page(study, views_of(study, shown_by(study, cells), times=times)) for study in studies)
    pages = [page for page in every if page.views]
    index = template("site.html").render(title=title, note=note, pages=pages, stages=stages, times=times)
    texts = {INDEX: index}
    for page in pages:
        texts |= files(page.study, page.views, times=times)
    write_texts(texts, out_dir)
    return Path(out_dir) / INDEX

"""One self-contained HTML page about attacks on a candidate set, and the same table for the terminal.

Everything here reads results; nothing is computed on a model.  The page needs no network: styles are
inline and pictures are PNG data URIs at their own size, enlarged by the browser without smoothing.
"""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from deepsec_jax.attacks import ATTACKS
from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.attack_table import Distance, Result, Row
from deepsec_jax.evaluation.sample import examples_of
from deepsec_jax.studies.attacks.checks import spoiled
from deepsec_jax.studies.settings import said
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.page import template
from deepsec_jax.tables.pictures import class_in_words, example, names_for, number


class ReportError(ValueError):
    """A report that cannot be written; one line with the path and the remedy."""


def terminal_table(rows: Sequence[Row], title: str) -> Table:
    """Return the results as a table for ``rich.print``, 80 columns wide."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding = 0
    erring = any(row.clean_error for row in rows)
    table.caption = (
        "success: share of n; 8-bit: the same after rounding to 256 levels;\n"
        + ("error: share of n that is wrong without the attack, never a success;\n" if erring else "")
        + "L2, Linf, L0: median over the hits; s: for all n, compilation apart\n"
        "(comp s); grads: gradients per image"
    )
    table.add_column("attack", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    shares = ("success", "error", "8-bit") if erring else ("success", "8-bit")
    for name in ("n", *shares, "L2", "Linf", "L0", "s", "comp s", "grads"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.attack, "any" if row.goal == "untargeted" else "target", str(row.n),
            _percent(row.success), *((_percent(row.clean_error),) if erring else ()),
            _percent(row.success_8bit),
            number(row.l2.median), number(row.linf.median), _percent(row.l0.median),
            f"{row.seconds:.2f}", f"{row.compile_seconds:.1f}",
            "n/a" if row.gradients is None else f"{row.gradients:.4g}",
        )  # fmt: skip
    return table


def render(
    title: str,
    facts: Mapping[str, str],
    results: Sequence[Result],
    cards: Mapping[str, Mapping[str, Mapping[str, Any]]],
    candidates: Candidates,
    class_names: Sequence[str],
    *,
    said: Sequence[str] = (),
    made: datetime | None = None,
) -> str:
    """Return the page.

    Args:
        title: heading of the page.
        facts: what was attacked and how, label -> text, shown under the heading.
        results: one per attack, in the order of the table.
        cards: attack name -> ``attacks.preset_card``; fields without an entry are class defaults.
        candidates: the clean images that the results belong to.
        class_names: names of the model's classes.
        said: warnings that do not follow from the results; they stand before those that do.
        made: time shown on the page; default now.
    """
    filters = {"percent": _percent, "digits": digits, "distance": _pair, "share": _share_pair}
    examples = examples_of(candidates.labels)
    return template("attack_page.html", **filters).render(
        title=title,
        facts=facts,
        rows=[result.row for result in results],
        warnings=[*said, *spoiled([result.row for result in results])],
        sections=[
            section_of(result, cards.get(result.row.attack, {}), candidates, class_names, examples)
            for result in results
        ],
        n=len(candidates),
        made=(made or datetime.now()).strftime("%Y-%m-%d %H:%M"),
    )


def write_report(path: str | os.PathLike[str], page: str, *, replace: bool = False) -> Path:
    """Write the page aside and rename it.

    Raises:
        ReportError: the file exists and ``replace`` is not set.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise ReportError(f"{path} exists already: choose another folder or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as aside:
        written = Path(aside) / "report.html"
        written.write_text(page, encoding="utf-8")
        written.rename(path)
    return path


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{100 * share:.1f} %"


def _pair(distance: Distance) -> str:
    return "n/a" if math.isnan(distance.median) else f"{number(distance.median)} / {number(distance.mean)}"


def _share_pair(distance: Distance) -> str:
    if math.isnan(distance.median):
        return "n/a"
    return f"{100 * distance.median:.0f} / {100 * distance.mean:.0f} %"


def section_of(
    result: Result,
    card: Mapping[str, Mapping[str, Any]],
    candidates: Candidates,
    class_names: Sequence[str],
    examples: Sequence[int],
) -> dict[str, Any]:
    """Return what a template shows of one attack: hyperparameters with their sources, and pictures.

    Args:
        result: the attack's result.
        card: field -> {value, source, reason}; fields without an entry are class defaults.
        candidates: the clean images.
        class_names: names of the classes.
        examples: rows to show.
    """
    attack = ATTACKS.get(result.row.attack.partition("@")[0])
    described = getattr(attack, "card", None)
    names = names_for(class_names, result.probabilities.shape[1])
    defaults = {"source": "default of the class", "reason": ""}
    return {
        "row": result.row,
        "title": described.title if described else "",
        "reference": described.reference if described else "",
        "fields": [
            {**defaults, **card.get(name, {}), "name": name, "value": said(value)}
            for name, value in result.row.hyperparameters.items()
        ],
        "examples": [_example(result, candidates, names, index) for index in examples],
    }


def _example(result: Result, candidates: Candidates, names: Sequence[str], index: int) -> dict[str, Any]:
    target = int(result.targets[index])
    return example(
        candidates.images[index], result.x_adv[index],
        label=names[candidates.labels[index]],
        predicted=class_in_words(result.predicted[index], names),
        confidence=float(result.confidence[index]), success=bool(result.success[index] >= 0.5),
        target=names[target] if target >= 0 else None,
    )  # fmt: skip

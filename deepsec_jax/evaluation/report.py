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

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.table import Table

from deepsec_jax.data import Candidates
from deepsec_jax.evaluation.attack_table import Distance, Result, Row
from deepsec_jax.evaluation.picture_grid import examples_of, number, section_of
from deepsec_jax.evaluation.silence import silence

_TOLERANCE = 0.01  # one point: plain last iterates may differ by that much without anything being wrong

# (weaker, stronger) at one budget: more steps, a random start, or any wrong class instead of a given one.
_ORDER = (
    ("fgsm", "bim"), ("fgsm", "pgd"), ("fgsm", "umifgsm"), ("rfgsm", "pgd"), ("bim", "pgd"),
    ("llc", "illc"), ("rllc", "illc"), ("llc", "fgsm"), ("rllc", "rfgsm"), ("illc", "bim"),
    ("tmifgsm", "umifgsm"), ("uap", "pgd"),
)  # fmt: skip


class ReportError(ValueError):
    """A report that cannot be written; one line with the path and the remedy."""


def warnings(rows: Sequence[Row]) -> list[str]:
    """Return what a reader must know before trusting the table, one sentence each."""
    found = []
    for row in rows:
        found += silence(row.attack, row.no_answer, row.n, "adversarial images")
        eps = row.hyperparameters.get("eps")
        norm = row.hyperparameters.get("norm", "linf")
        if norm == "linf" and isinstance(eps, int | float) and eps >= 0.5:
            found.append(
                f"{row.attack}: eps = {eps:g} is 0.5 or more; at that radius any image can be "
                "made plain grey, so success says nothing about the model."
            )
        lost = row.success - row.success_8bit
        if round(lost, 6) >= _TOLERANCE:
            found.append(
                f"{row.attack}: success falls by {100 * lost:.1f} points, from {_percent(row.success)} to "
                f"{_percent(row.success_8bit)} of n = {row.n}, when the images are rounded to 8 bits."
            )
    for weak in rows:
        for strong in rows:
            if _comparable(weak, strong) and weak.success > strong.success + _TOLERANCE:
                found.append(
                    f"{weak.attack} ({_percent(weak.success)}) is ahead of {strong.attack} "
                    f"({_percent(strong.success)}, both of n = {strong.n}) at the same eps, though it is "
                    "the weaker attack: look for masked gradients, or give the stronger one more steps."
                )
    return found


def _comparable(weak: Row, strong: Row) -> bool:
    def budget(row: Row) -> tuple[Any, Any]:
        return row.hyperparameters.get("eps"), row.hyperparameters.get("norm", "linf")

    pair = (weak.attack.partition("@")[0], strong.attack.partition("@")[0])
    return pair in _ORDER and budget(weak) == budget(strong) and weak.n == strong.n


def terminal_table(rows: Sequence[Row], title: str) -> Table:
    """Return the results as a table for ``rich.print``, 80 columns wide."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding = 0
    table.caption = (
        "success: share of n; 8-bit: the same after rounding to 256 levels;\n"
        "L2, Linf, L0: median over the hits; s: for all n, compilation apart\n"
        "(comp s); grads: gradients per image"
    )
    table.add_column("attack", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    for name in ("n", "success", "8-bit", "L2", "Linf", "L0", "s", "comp s", "grads"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.attack, "any" if row.goal == "untargeted" else "target", str(row.n),
            _percent(row.success), _percent(row.success_8bit),
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
    environment = Environment(
        loader=PackageLoader("deepsec_jax.evaluation"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(percent=_percent, number=number, distance=_pair, share=_share_pair)
    examples = examples_of(candidates.labels)
    return environment.get_template("report.html").render(
        title=title,
        facts=facts,
        rows=[result.row for result in results],
        warnings=[*said, *warnings([result.row for result in results])],
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

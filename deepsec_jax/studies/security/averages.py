"""The averages that the paper prints in its tables of replayed attacks, beside ours."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from deepsec_jax.metrics import Column, Summary, average
from deepsec_jax.runs.cells import Cell
from deepsec_jax.studies.security.model import HITS, PAPER, Model, attack_label, defense_label
from deepsec_jax.tables import build
from deepsec_jax.tables.published import Printed, Reason
from deepsec_jax.tables.table import Figure, Row, Span, Table

KIND = "averages"
"""Kind of this table's rows in files."""


def _no_values(cell: Cell) -> None:
    del cell


_column = partial(
    Column, metric="robust", section="IV-C", unit="share", better="neither", over="figures",
    values=_no_values, rate=True,
)  # fmt: skip
AVERAGE = _column(
    name="average", title="Average",
    formula="mean of the shares on hits over attacks or defenses of the paper's table, which is no robust "
            "accuracy; n counts these shares",
)  # fmt: skip
SAME = _column(
    name="average_of_same",
    title="Same figures",
    formula="the mean over the shares that the paper has too, beside the mean of the paper's, computed here",
)

INTRO = (
    "The paper averages the rows and the columns of its table, so the averages are here too. They are over "
    "attacks or defenses, on replayed images: they are no robust accuracy. An attacker takes the best "
    "attack, so the worst case is what counts. n is the number of averaged shares, and the ends of an "
    "interval are the means of their ends."
)

Shares = Mapping[tuple[str, str], Figure]
"""(Attack, defense) -> share of the images on which the defended model is right."""


@dataclass(frozen=True)
class Averaged:
    """One average of the paper's table.

    Attributes:
        key: unique name.
        label: what it is of and over.
        group: words above its row.
        attack, defense: of which it is; "all" for the side over which it averages.
        paper: the (attack, defense) of the paper's average.
        printed: the paper's average in percent; NaN if our copy has none.
    """

    key: str
    label: str
    group: str
    attack: str
    defense: str
    paper: frozenset[tuple[str, str]]
    printed: float


def averages_table(
    replayed: Table, models: Sequence[Model], dataset: str, *, title: str, note: str
) -> Table | None:
    """Return the table of averages; None where the paper has no figure to compare with.

    Args:
        replayed: the table of replayed attacks.
        models: the defended models; of two of one defense the first counts.
        dataset: name of the data set.
        title: of the section.
        note: why it has no title of the paper.
    """
    chosen = {model.name.partition("@")[0]: model for model in reversed(models)}
    shares = {
        (row.name, name): figure
        for row in replayed.rows for name, model in chosen.items()
        if (figure := row.figures[model.key][HITS.name]).summary.n
    }  # fmt: skip
    if PAPER.said(dataset, KIND) is None or all(figure.printed.absent for figure in shares.values()):
        return None
    why = (Reason("another model or fit", note),) if note else ()
    cell = next(cell for row in replayed.rows for cell in row.cells.values())
    rows = [
        _row(each, mine, cell, why)
        for each in _averages(dataset)
        if (mine := {place: figure for place, figure in shares.items() if place in each.paper})
    ]
    complete = all(not row.figures[""][AVERAGE.name].printed.absent for row in rows)
    return Table(
        kind=KIND, title=title, about="averages, no robust accuracy", heading="Average", note=note,
        rows=tuple(rows), spans=(Span((AVERAGE,) if complete else (AVERAGE, SAME)),),
        further=(SAME,) if complete else (), page_title="Averages over attacks and over defenses",
        intro=INTRO, fields={"table": KIND},
        caption=" (averages, no robust accuracy). Our mean share, the mean of the "
                "95\N{NARROW NO-BREAK SPACE}% intervals, and the average printed in the paper.",
    )  # fmt: skip


def _averages(dataset: str) -> Iterator[Averaged]:
    """Yield the averages of the paper's table: per defense, per attack, of all."""
    attacks, defenses, printed = PAPER.rows(dataset), PAPER.labels(), PAPER.said(dataset, KIND)
    for name in defenses:
        places = frozenset(product(attacks, (name,)))
        label, theirs = f"{defense_label(name)}, all attacks", printed["defenses"].get(name, math.nan)
        yield Averaged(name, label, "Per defense", "all", defense_label(name), places, theirs)
    for name in attacks:
        places = frozenset(product((name,), defenses))
        label, theirs = f"{attack_label(name)}, all defenses", printed["attacks"].get(name, math.nan)
        yield Averaged(name, label, "Per attack", name, "all", places, theirs)
    every = frozenset(product(attacks, defenses))
    theirs = printed.get("all", math.nan)
    yield Averaged("all", "All attacks, all defenses", "Of all", "all", "all", every, theirs)


def _row(average: Averaged, shares: Shares, cell: Cell, why: tuple[Reason, ...]) -> Row:
    theirs = [figure.printed.value for figure in shares.values()]
    same = {place: figure for place, figure in shares.items() if not math.isnan(figure.printed.value)}
    mean = Printed(float(np.nanmean(theirs)) if same else math.nan, "" if same else "no figure of the paper")
    return Row(
        key=f"average {average.key}", name=average.label, label=average.label, group=(average.group,),
        n=len(shares), cells={"": cell}, fields={"attack": average.attack, "defense": average.defense},
        figures={"": {
            AVERAGE.name: build.figure(AVERAGE, _mean(shares), "", _printed(average, shares), why),
            SAME.name: build.figure(SAME, _mean(same), "no figure of the paper", mean, why),
        }},
        record={"average": average.label, "of": [list(place) for place in shares]},
    )  # fmt: skip


def _printed(average: Averaged, shares: Shares) -> Printed:
    """Return the paper's average, which is compared only if ours is over the same attacks and defenses."""
    if math.isnan(average.printed):
        return Printed(math.nan, "our copy of the paper has no such average")
    if shares.keys() == average.paper:
        return Printed(average.printed / 100)
    return Printed(
        math.nan,
        f"the paper's {average.printed} % is over {len(average.paper)} figures, ours over {len(shares)}",
    )


def _mean(shares: Shares) -> Summary:
    return average([figure.summary for figure in shares.values()])

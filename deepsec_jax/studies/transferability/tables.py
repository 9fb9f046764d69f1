"""Transfer of adversarial images: the paper's Tables VIII and XVII, the matrix of models, curves of effort.

Cells with the same original model, data, images and preset are one section.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepsec_jax.attacks import ATTACKS as KNOWN
from deepsec_jax.runs.cells import ATTACK, TRANSFER, Cell
from deepsec_jax.studies.paper_title import Used, changed_hyperparameters, why_untitled
from deepsec_jax.studies.study import Study
from deepsec_jax.studies.transferability import details
from deepsec_jax.studies.transferability.columns import ACAC, ALL, MR, WRONG, WRONG_ALL
from deepsec_jax.studies.transferability.jobs import KAPPA, STEPS, jobs
from deepsec_jax.studies.transferability.options import Options
from deepsec_jax.studies.transferability.rows import AVERAGE, ORIGINAL, PAPER, Rows, Source
from deepsec_jax.tables import build
from deepsec_jax.tables.checks import failed_cells, model_findings
from deepsec_jax.tables.table import Section, Span, Table

_INTRO = (
    "Images that fool the original model, judged on each of the other models. The attack knows nothing of "
    "the others, so this is no measure of their robustness. The average is over the other models."
)
_MATRIX = (
    "The share of all n images of a row's model on which the model of the column is fooled. The diagonal is "
    "the attack on the model itself. Each attacked model has n images of its own, which it classifies "
    "correctly. A row 'average without' attacks the mean logits of all models but one, and is judged on that "
    "one."
)
_EFFORT = (
    "The same attack with more steps, each eps / steps long, and CW2 with a larger confidence. More success "
    "on the original model need not be more transfer."
)


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group the cells into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones, with the attacks whose images they judge.
        times: whether to keep values that depend on the clock and the machine's load.
    """
    every = list(cells)
    attacks = {cell.name: cell for cell in every if cell.kind == ATTACK}
    groups = build.grouped((cell for cell in every if cell.kind == TRANSFER), _shared)
    return [_section(group, attacks, times) for group in groups.values()]


def _shared(cell: Cell) -> str:
    decided = {name: cell.config[name] for name in ("original", "data", "images", "n", "seed")}
    return build.decided_by({**decided, "preset": cell.config["attack"]["preset"]})


def _section(cells: Sequence[Cell], attacks: Mapping[str, Cell], times: bool) -> Section:
    config = cells[0].config
    dataset, original = build.name_of(config["data"]), str(config["original"])
    preset = str(config["attack"]["preset"])
    sources = [
        Source(attacks[name], {str(cell.config["target"]["name"]): cell for cell in group})
        for name, group in build.grouped(cells, lambda cell: str(cell.config["source"])).items()
        if name in attacks
    ]
    about = {str(cell.config["target"]["name"]): cell.config["target"] for cell in cells}
    own = [each for each in sources if each.model == original]
    names = tuple(dict.fromkeys(name for each in own for name in each.on))
    note = _why_untitled(own, [about[name] for name in names], dataset, preset)
    title = f"Transfer from {original}, {dataset}, {preset} settings" if note else (
        f"{PAPER.title(dataset)} and ours"
    )  # fmt: skip
    rows = Rows(original, names, about, dataset, preset, note)
    plain = [each for each in own if STEPS not in each.attack and KAPPA not in each.attack]
    tables = (_transfer(rows, plain, title), _matrix(rows, sources, title), _effort(rows, own, title))
    return Section(
        title=title, note=note, fields={"data": dataset, "original": original, "preset": preset},
        tables=tuple(table for table in tables if table.rows), explained=MR.name,
        cells=tuple(cell for each in sources for cell in (each.cell, *each.on.values())),
        kinds=("transfer", "matrix", "effort"),
        facts=build.facts(cells, {
            "Original model": original,
            **{rows.label(name): _described(about[name]) for name in names},
            "Hyperparameters": f"{preset} settings of attacks",
            "Candidates": f"n = {config['n']}, test images that the attacked model classifies correctly, "
                          f"seed {config['seed']}",
        }, times=times, model=""),
        missing={} if preset != "paper" or not PAPER.rows(dataset) else build.missing(
            PAPER, PAPER.rows(dataset), {each.attack for each in plain}, KNOWN
        ),
    )  # fmt: skip


def _described(about: Mapping[str, Any]) -> str:
    """Return name, recipe and accuracy of a model."""
    recipe = about.get("recipe")
    words = [build.name_of(about)]
    if isinstance(recipe, Mapping):
        words.append(f"recipe {recipe.get('name')}")
    if "test_accuracy" in about:
        words.append(f"test accuracy {100 * about['test_accuracy']:.2f} %")
    return ", ".join(words)


def _why_untitled(
    sources: Sequence[Source], about: Sequence[Mapping[str, Any]], dataset: str, preset: str
) -> str:
    changed = [
        PAPER.label(each.attack)
        for each in sources
        if each.attack in PAPER.rows(dataset)
        and changed_hyperparameters(each.cell.config["attack"], dataset, preset)
    ]
    recipes = [str(dict(model.get("recipe") or {}).get("name")) for model in about]
    wanted = list(PAPER.said(dataset, "targets") or ())
    others = [name for name in recipes if name not in wanted]
    others += [f"the missing {name}" for name in wanted if name not in recipes] if not others else []
    config = sources[0].cell.config if sources else {}
    used = Used(
        dataset, config.get("model"), config.get("images"), {"the hyperparameters are": preset},
        {"hyperparameters of": changed if preset == "paper" else (), "recipes": others},
    )  # fmt: skip
    return why_untitled(PAPER, used)


def _transfer(rows: Rows, sources: Sequence[Source], title: str) -> Table:
    """Return the paper's table: a row per attack, a span per model, and their mean."""
    found = [rows.row(source, "transfer") for source in sources]
    found.sort(key=lambda row: (row.group[0] != "UAs", PAPER.position(row.name)))
    spans = (
        Span((ALL, ACAC), f"Original, {rows.original}", ORIGINAL, fields={"target": rows.original}),
        *(Span((MR, ACAC), rows.label(name), name, fields={"target": name}) for name in rows.others),
        Span((MR, ACAC), "Average of the others", AVERAGE, fields={"target": AVERAGE}),
    )
    return Table(
        kind="transfer", title=title, about="transfer", heading="Attack", base="n/hits", note=rows.note,
        rows=tuple(row for group in build.grouped(found, lambda row: row.group).values() for row in group),
        spans=spans, further=(WRONG, WRONG_ALL), parts="targets", intro=_INTRO, page_title="Transfer",
        fields={"table": "transfer"},
        caption=". Per attack and model: our mean, its 95\N{NARROW NO-BREAK SPACE}% interval, and the number "
                "printed in the paper.",
    )  # fmt: skip


def _effort(rows: Rows, sources: Sequence[Source], title: str) -> Table:
    """Return the table of attacks with different numbers of steps or confidences."""
    swept = [each for each in sources if STEPS in each.attack]
    if any(KAPPA in each.attack for each in sources):
        swept += [each for each in sources if each.attack.partition("@")[0] == "cw2"]
    found = [rows.row(source, "effort") for source in swept]
    found.sort(key=lambda row: (row.group, row.record["effort"]))
    spans = (
        Span((ALL,), f"Original, {rows.original}", ORIGINAL, fields={"target": rows.original}),
        *(Span((MR,), rows.label(name), name, fields={"target": name}) for name in rows.others),
        Span((MR, ALL), "Average of the others", AVERAGE, fields={"target": AVERAGE}),
    )
    return Table(
        kind="effort", title=title, about="effort", heading="Attack", base="n/hits", note=rows.note,
        rows=tuple(found), spans=spans, further=(ACAC, WRONG, WRONG_ALL), parts="targets", intro=_EFFORT,
        page_title="Transfer against effort", fields={"table": "effort"}, caption=" (effort).",
    )  # fmt: skip


def _matrix(rows: Rows, sources: Sequence[Source], title: str) -> Table:
    """Return the table of models against models: a row per attack and attacked model."""
    chosen = {each.attack for each in sources if each.model != rows.original}
    found = [rows.row(each, "matrix") for each in sources if each.attack in chosen]
    found.sort(key=lambda row: (PAPER.position(row.name), row.name, "members" in _model(row.cells[""])))
    spans = tuple(
        Span((ALL, WRONG_ALL), rows.label(name) if name != rows.original else f"Original, {name}",
             name if name != rows.original else ORIGINAL, fields={"target": name})
        for name in (rows.original, *rows.others)
    )  # fmt: skip
    return Table(
        kind="matrix", title=title, about="matrix", heading="Attacked model", base="n/hits", note=rows.note,
        rows=tuple(found), spans=spans, further=(MR, ACAC, WRONG), parts="targets", intro=_MATRIX,
        page_title="Every model against every model", fields={"table": "matrix"}, caption=" (matrix).",
    )  # fmt: skip


def _model(cell: Cell) -> Mapping[str, Any]:
    model = cell.config["model"]
    return model if isinstance(model, Mapping) else {}


CHECKS = (
    failed_cells(),
    model_findings(lambda cell: build.name_of(cell.config.get("target", cell.config["model"]))),
)

TRANSFERABILITY = Study(
    name="transferability", options=Options, jobs=jobs, kinds=(TRANSFER,), beside=(ATTACK,),
    title="Transferability", sections=sections, checks=CHECKS, paper=PAPER, overview=details.overview,
    details=details.details, heading="Attacks", better="Better for the attacker",
    fields=("data", "original", "preset", "table", "cell", "attack", "source", "goal", "objective", "target"),
    intro="All figures of each attack on the original model.",
)  # fmt: skip

"""Ensembles of defenses: the paper's Tables IX and XVIII, attacks on whole ensembles, and the worst case.

Cells with the same undefended model, data and images are one section.
"""

from collections.abc import Iterable, Mapping, Sequence

from deepsec_jax.attacks import ATTACKS as KNOWN
from deepsec_jax.runs.cells import ATTACK, DRAWN, MEMBER, SECURITY, WHOLE, Cell
from deepsec_jax.studies.ensembles import details
from deepsec_jax.studies.ensembles.drawn import LABELS, Ensemble
from deepsec_jax.studies.ensembles.jobs import BASE, jobs
from deepsec_jax.studies.ensembles.known import accesses, known_of
from deepsec_jax.studies.ensembles.options import Options
from deepsec_jax.studies.ensembles.rows import PAPER, Rows
from deepsec_jax.studies.paper_title import Used, changed_hyperparameters, changed_settings, why_untitled
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.checks import Check, failed_cells, model_findings
from deepsec_jax.tables.published import Published
from deepsec_jax.tables.table import Section

DEFENSES = Published("defenses")


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group the cells into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones, with the attacks whose images they answer.
        times: whether to keep values that depend on the clock and the machine's load.
    """
    every = list(cells)
    attacks = [cell for cell in every if cell.kind in (ATTACK, SECURITY)]
    groups = build.grouped((cell for cell in every if cell.kind in (MEMBER, DRAWN, WHOLE)), _shared)
    return [_section(group, attacks, times) for group in groups.values()]


def _shared(cell: Cell) -> str:
    names = ("data", "model", "n", "seed", "candidates", "images")
    return build.decided_by({name: cell.config[name] for name in names})


def _section(cells: Sequence[Cell], attacks: Sequence[Cell], times: bool) -> Section:
    config = cells[0].config
    dataset, base = build.name_of(config["data"]), build.name_of(config["model"])
    known = known_of(cells, attacks)
    asked = [cell for cell in cells if cell.kind == MEMBER]
    preset = next((str(cell.config["attack"]["preset"]) for cell in asked), "paper")
    replayed = {
        str(cell.config["attack"]["name"]): str(cell.config["source"])
        for cell in asked
        if cell.config["access"] == BASE
    }
    note = _why_untitled(cells, [known.sources[each] for each in replayed.values() if each in known.sources],
                         dataset, preset)  # fmt: skip
    title = f"Ensembles of defenses of {base}, {dataset}, {preset} attacks" if note else (
        f"{PAPER.title(dataset)} and ours"
    )  # fmt: skip
    rows = Rows(known, dataset, preset, note)
    made_on = _made_on(accesses(known), attacks)
    tables = (rows.replayed(replayed, title), rows.whole(made_on, title), rows.worst(title))
    return Section(
        title=title, note=note, fields={"data": dataset, "base": base, "preset": preset},
        tables=tuple(table for table in tables if table.rows), explained="averaged",
        cells=(*known.sources.values(), *cells), kinds=("replayed", "whole", "worst"),
        facts=build.facts(cells, {
            "Ensembles": "; ".join(_in_words(each) for each in known.ensembles),
            "Draw": f"seed {next((cell.config['draw'] for cell in cells if cell.kind == DRAWN), 0)}; used: "
                    + ", ".join(dict.fromkeys(
                        DEFENSES.label(str(cell.config["defense"]["name"])) for cell in asked)),
            "Hyperparameters": f"{preset} settings of attacks",
            "Candidates": f"n = {config['n']}, test images that the undefended model classifies correctly, "
                          f"seed {config['seed']}; the same for all models",
        }, times=times),
        missing={} if preset != "paper" or not PAPER.rows(dataset) else build.missing(
            PAPER, PAPER.rows(dataset), replayed, KNOWN
        ),
    )  # fmt: skip


def _made_on(made_on: Mapping[str, str], attacks: Sequence[Cell]) -> dict[str, dict[str, str]]:
    """Return attack -> base or defense -> name of the cell with the images made on it."""
    names = {cell.name: str(cell.config["attack"]["name"]) for cell in attacks}
    found: dict[str, dict[str, str]] = {}
    for source, access in made_on.items():
        if source in names:
            found.setdefault(names[source], {})[access] = source
    return found


def _in_words(ensemble: Ensemble) -> str:
    number = f" {ensemble.number + 1}" if ensemble.kind != "best" else ""
    members = " + ".join(DEFENSES.label(name) for name in ensemble.members)
    return f"{LABELS[ensemble.kind].lower()}{number}: {members}"


def _why_untitled(
    cells: Sequence[Cell], sources: Sequence[Cell], dataset: str, preset: str
) -> str:  # fmt: skip
    asked = [cell.config["defense"] for cell in cells if cell.kind == MEMBER]
    kinds = sorted({str(defense["preset"]) for defense in asked})
    defenses = {
        DEFENSES.label(str(defense["name"])): None
        for defense in asked
        if kinds == ["paper"] and changed_settings(defense, dataset, "paper", None)
    }
    attacks = {
        PAPER.label(str(cell.config["attack"]["name"])): None
        for cell in sources
        if preset == "paper"
        and str(cell.config["attack"]["name"]) in PAPER.rows(dataset)
        and changed_hyperparameters(cell.config["attack"], dataset, preset)
    }
    config = cells[0].config
    used = Used(
        dataset, config["model"], config["images"],
        {"the attacks are of preset": preset, "the defenses are of preset": ", ".join(kinds)},
        {"settings of": tuple(defenses), "hyperparameters of": tuple(attacks)},
    )  # fmt: skip
    return why_untitled(PAPER, used)


def _missing_best(section: Section) -> list[str]:
    if any(cell.kind == DRAWN and cell.config["ensemble"]["kind"] == "best" for cell in section.cells):
        return []
    return ["There is no best-defense ensemble: one of the paper's best three was not given."]


def _findings(section: Section) -> list[str]:
    """Return each finding once, with the rows that it is about."""
    rows = list(section.rows("worst"))
    about = build.grouped(
        ((row.label, finding) for row in rows for finding in row.findings), lambda pair: str(pair[1].text)
    )
    found = []
    for pairs in about.values():
        names = list(dict.fromkeys(label for label, _ in pairs))
        who = "All rows" if len(names) == len(rows) > 1 else "; ".join(names)
        found.append(f"{who}: {pairs[0][1].label}: {pairs[0][1].text}.")
    return found


def _asked(cell: Cell) -> str:
    """Return the name of the model that a cell asks."""
    defense = cell.config.get("defense", {"name": build.name_of(cell.config["model"])})
    return str(defense["name"])


CHECKS = (
    failed_cells(),
    model_findings(_asked),
    Check(_missing_best),
    Check(_findings, "every ensemble was attacked as a whole, at every radius"),
)

ENSEMBLES = Study(
    name="ensembles", options=Options, jobs=jobs, of_network=True, kinds=(MEMBER, DRAWN, WHOLE),
    beside=(ATTACK, SECURITY), title="Ensembles of defenses", sections=sections, checks=CHECKS, paper=PAPER,
    overview=lambda section, anchor: [], details=details.details, heading="Attacks",
    better="Better for the defender", intro="All figures of each replayed attack.",
    fields=(
        "data", "base", "preset", "table", "cell", "attack", "goal", "objective", "ensemble", "members",
        "decided",
    ),
    fields_after=("flags",),
)  # fmt: skip

"""Every attack against every defense: the paper's Tables XV and V, white-box, adaptive, and the worst case.

Cells with the same undefended model, data, seed and preset are one section, so all figures are over the same
images; a cell of fewer images has the first ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepsec_jax.defenses import DEFENSES as KNOWN
from deepsec_jax.evaluation.defense_cells import ADAPTIVE, REPLAYED, UNDEFENDED, WHITE_BOX
from deepsec_jax.runs.cells import ATTACK, SECURITY, Cell
from deepsec_jax.studies.attacks.tables import PAPER as ATTACKS
from deepsec_jax.studies.defenses.robustness import defense_key
from deepsec_jax.studies.paper_title import Used, changed_hyperparameters, changed_settings, why_untitled
from deepsec_jax.studies.security import details
from deepsec_jax.studies.security.attack_tables import Maker
from deepsec_jax.studies.security.averages import KIND as AVERAGES
from deepsec_jax.studies.security.averages import averages_table
from deepsec_jax.studies.security.gating.gate import Gate
from deepsec_jax.studies.security.gating.gates import gates
from deepsec_jax.studies.security.gating.indicated import KIND as INDICATORS
from deepsec_jax.studies.security.gating.invariants import known_success
from deepsec_jax.studies.security.gating.noise import KIND as NOISE
from deepsec_jax.studies.security.jobs import jobs
from deepsec_jax.studies.security.model import HITS, PAPER, Model, defense_label
from deepsec_jax.studies.security.options import Options
from deepsec_jax.studies.security.worst import Threat, usual_threats
from deepsec_jax.studies.security.worst_table import as_security, worst_table
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.checks import Check, failed_cells, model_findings
from deepsec_jax.tables.table import Section

SIGNS = (INDICATORS, NOISE)
"""Kinds of the cells that say how far attacks may be trusted."""


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group the cells into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones; attacks on the undefended model belong to the cells that replay them.
        times: whether to keep values that depend on the clock and the machine's load.
    """
    every = list(cells)
    groups = build.grouped((cell for cell in every if cell.kind in (SECURITY, *SIGNS)), _shared)
    raw = build.grouped((cell for cell in every if cell.kind == ATTACK), _shared)
    return [
        _section(group, raw.get(key, []), times)
        for key, group in groups.items()
        if any(cell.kind == SECURITY for cell in group)
    ]


def _shared(cell: Cell) -> str:
    names = ("data", "model", "seed", "images")
    decided = {name: cell.config.get(name) for name in names}
    return build.decided_by({**decided, "preset": cell.config["attack"]["preset"]})


def _section(cells: Sequence[Cell], raw: Sequence[Cell], times: bool) -> Section:
    attacked = [cell for cell in cells if cell.kind == SECURITY]
    config = attacked[0].config
    dataset, base = build.name_of(config["data"]), build.name_of(config["model"])
    preset = str(config["attack"]["preset"])
    numbers = sorted({int(cell.config["n"]) for cell in attacked})
    n = numbers[-1]
    said = str(n) if len(numbers) == 1 else f"{numbers[0]} to {n}"
    sources = {str(cell.config["attack"]["name"]): cell for cell in sorted(raw, key=_images)}
    channels = next((cell.arrays["x"].shape[3] for cell in raw if cell.error is None), 1)
    threats = usual_threats(channels)
    classes = next((cell.arrays["probabilities"].shape[1] for cell in raw if cell.error is None), 10)
    signs = {
        (cell.kind, _defense_of(cell)): cell for cell in cells if cell.kind in SIGNS and cell.error is None
    }
    note = _why_untitled(attacked, dataset, preset)
    title = f"Attacks against defenses of {base}, {dataset}, {preset} settings" if note else (
        f"{PAPER.title(dataset)} and ours"
    )  # fmt: skip
    finished = {(UNDEFENDED, name): as_security(cell) for name, cell in sources.items()}
    raw_cells = {place: cell for place, cell in finished.items() if cell.error is None}
    # An attack that fails on the undefended network is too weak for every model.
    known = known_success(raw_cells, dataset) if _is_undefended(config["model"], dataset) else []
    models = _models(attacked, signs, threats, n, classes, known)
    undefended = Model(
        "", UNDEFENDED, "Undefended", finished,
        (*known, *gates(raw_cells, threats, n, classes, *_signs_of("", signs))) if finished else (),
        signs.get((INDICATORS, "")), signs.get((NOISE, "")),
    )  # fmt: skip
    made = Maker(models, sources, dataset, preset, note, times)
    worst = worst_table((undefended, *models), threats, title=title, note=note, n=n)
    tables = [made.attacks(knowledge, title) for knowledge in (REPLAYED, WHITE_BOX, ADAPTIVE)]
    averages = averages_table(tables[0], models, dataset, title=title, note=note)
    return Section(
        title=title, note=note, fields={"data": dataset, "base": base, "preset": preset},
        tables=(worst, *(table for table in (*tables, averages) if table is not None and table.rows)),
        cells=(*raw, *cells), kinds=("worst", REPLAYED, WHITE_BOX, ADAPTIVE, AVERAGES), explained=HITS.name,
        subjects=(undefended, *models),
        facts=build.facts(cells, {
            "Hyperparameters": f"{preset} settings of attacks",
            "Candidates": f"n = {said}, test images that the undefended model classifies correctly, seed "
                          f"{config['seed']}; the same for all models",
        }, times=times),
        missing={} if preset != "paper" or not PAPER.rows(dataset) else {
            **build.missing(ATTACKS, PAPER.rows(dataset), sources, PAPER.rows(dataset)),
            **build.missing(PAPER, PAPER.labels(), {m.name.partition("@")[0] for m in models}, KNOWN),
        },
    )  # fmt: skip


def _images(cell: Cell) -> int:
    """Return the number of images of a cell; of two equal ones that with more is shown."""
    return int(cell.config["n"])


def _defense_of(cell: Cell) -> str:
    """Return the key of a cell's defense; empty for the undefended model."""
    return defense_key(cell) if "defense" in cell.config else ""


def _is_undefended(model: Any, data: str) -> bool:
    """Tell whether a model's config says that it was trained on this data without a defense."""
    if not isinstance(model, Mapping) or isinstance(model.get("defense"), Mapping):
        return False
    recipe = model.get("recipe")
    return isinstance(recipe, Mapping) and recipe.get("data") == data


def _signs_of(key: str, signs: Mapping[tuple[str, str], Cell]) -> tuple[Cell | None, ...]:
    """Return a model's cells of indicators and of noise; None for a missing one."""
    return tuple(signs.get((kind, key)) for kind in SIGNS)


def _models(
    cells: Sequence[Cell],
    signs: Mapping[tuple[str, str], Cell],
    threats: Sequence[Threat],
    n: int,
    classes: int,
    known: Sequence[Gate],
) -> list[Model]:
    found = []
    for key, group in build.grouped(cells, defense_key).items():
        name = str(group[0].config["defense"]["name"])
        by = {
            (str(cell.config["knowledge"]), str(cell.config["attack"]["name"])): cell
            for cell in sorted(group, key=_images)
        }
        finished = {place: cell for place, cell in by.items() if cell.error is None}
        found.append(
            Model(
                key,
                name,
                defense_label(name),
                by,
                (*known, *gates(finished, threats, n, classes, *_signs_of(key, signs))),
                signs.get((INDICATORS, key)),
                signs.get((NOISE, key)),
            )
        )
    found.sort(key=lambda model: PAPER.position(model.name))
    labels = [model.label for model in found]
    return [
        replace(model, label=f"{model.label} ({index + 1})") if labels.count(model.label) > 1 else model
        for index, model in enumerate(found)
    ]


def _why_untitled(cells: Sequence[Cell], dataset: str, preset: str) -> str:
    config = cells[0].config
    kinds = sorted({str(cell.config["defense"]["preset"]) for cell in cells})
    changed = {
        PAPER.label(str(cell.config["defense"]["name"])): None
        for cell in cells
        if kinds == ["paper"] and changed_settings(cell.config["defense"], dataset, "paper", None)
    }
    attacks = {
        ATTACKS.label(str(cell.config["attack"]["name"])): None
        for cell in cells
        if preset == "paper"
        and str(cell.config["attack"]["name"]) in PAPER.rows(dataset)
        and changed_hyperparameters(cell.config["attack"], dataset, preset)
    }
    used = Used(
        dataset, config["model"], config["images"],
        {"the attacks are of preset": preset, "the defenses are of preset": ", ".join(kinds)},
        {"settings of": tuple(changed), "hyperparameters of": tuple(attacks)},
    )  # fmt: skip
    return why_untitled(PAPER, used)


def _gates(section: Section) -> list[str]:
    return [f"{model.label}: {gate}" for model in section.subjects for gate in model.gates]


CHECKS = (
    failed_cells(),
    model_findings(
        lambda cell: str(cell.config.get("defense", {}).get("name", build.name_of(cell.config["model"])))
    ),
    Check(_gates, "no gate is closed: more knowledge never helps the model, attacks without gradients find "
                  "nothing new, every radius has an attack"),
)  # fmt: skip

SECURITY_STUDY = Study(
    name="security", options=Options, jobs=jobs, of_network=True, kinds=(SECURITY, *SIGNS),
    beside=(ATTACK,),
    title="Security evaluation", sections=sections, checks=CHECKS, paper=PAPER,
    overview=details.overview, details=details.details,
    fields=("data", "base", "preset", "table", "cell", "attack", "goal", "objective", "defense"),
    fields_after=("flags",), heading="Defenses", better="Better for the defender",
    intro="Which attack took how many images, and the gates.",
)  # fmt: skip

"""Detectors of one model against the same attacks: the paper's Tables XVI, VI and VII.

Cells with the same data, model, test images, candidates and kind of attack preset are one section: its
figures are over the same clean test images.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deepsec_jax.defenses import DETECTORS as KNOWN
from deepsec_jax.metrics import DETECTION_METRICS
from deepsec_jax.runs.cells import CLEAN, DETECTION, SWEEP, Cell
from deepsec_jax.studies.attacks.tables import PAPER as ATTACKS
from deepsec_jax.studies.detectors import details
from deepsec_jax.studies.detectors.checks import CHECKS
from deepsec_jax.studies.detectors.detector import (
    PAPER,
    Detector,
    detector_cell,
    detectors_of,
    figure_of,
    key_of,
    part_record,
)
from deepsec_jax.studies.detectors.jobs import jobs
from deepsec_jax.studies.detectors.options import Options
from deepsec_jax.studies.detectors.sweep import sweep_table
from deepsec_jax.studies.paper_title import Used, changed_hyperparameters, why_untitled
from deepsec_jax.studies.settings import defense_of, undefended_model
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.published import Printed
from deepsec_jax.tables.table import Row, Section, Table

_INTRO = (
    "Each detector has one threshold, set on clean images, and so the same FPR in every row; the paper's "
    "differs by row. TPR and AUC are over the hits, the images that fool the model; evasion is the share of "
    "all n that fool the model and are not flagged. These attacks do not know the detector. An attack that "
    "does will evade more, so this table is no security claim."
)


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Group the cells of detectors into sections, in the order of first occurrence.

    Args:
        cells: finished and failed ones.
        times: whether to keep values that depend on the clock and the machine's load.
    """

    def asked(cell: Cell) -> tuple[str, str]:
        return undefended_model(cell), build.decided_by(
            {name: cell.config[name] for name in ("candidates", "n", "seed")}
        )

    every = list(cells)
    clean = build.grouped((cell for cell in every if cell.kind == CLEAN), undefended_model)
    swept = build.grouped((cell for cell in every if cell.kind == SWEEP), asked)
    attacked = build.grouped(
        (cell for cell in every if cell.kind == DETECTION),
        lambda cell: (*asked(cell), str(cell.config["attack"]["preset"])),
    )
    for key in swept:  # a sweep alone, or clean images alone, are also a section
        if not any(known[:2] == key for known in attacked):
            attacked[*key, "paper"] = []
    for model in clean:
        if not any(known[0] == model for known in attacked):
            attacked[model, "", "paper"] = []
    found = []
    for (model, question, kind), group in attacked.items():
        sweep = swept.pop((model, question), [])  # in the first section of its candidates
        found.append(_section(kind, clean.get(model, []), group, sweep, times))
    return found


def _section(
    kind: str, clean: Sequence[Cell], attacked: Sequence[Cell], swept: Sequence[Cell], times: bool
) -> Section:
    cells = (*clean, *attacked, *swept)
    config = cells[0].config
    dataset, base = build.name_of(config["data"]), build.name_of(config["model"])
    detectors = detectors_of(cells, dataset)
    kinds = ", ".join(sorted({str(each.about["preset"]) for each in detectors}))
    used = Used(
        dataset, config["model"], config["images"],
        {"the attacks are of preset": kind, "the detectors are of preset": kinds},
        {
            "settings of": [each.label for each in detectors if each.changed] if kinds == "paper" else (),
            "hyperparameters of": _changed_attacks((*attacked, *swept), dataset) if kind == "paper" else (),
        },
    )  # fmt: skip
    note = why_untitled(PAPER, used)
    title = f"Detectors of {base}, {dataset}, {kind} attacks" if note else f"{PAPER.title(dataset)} and ours"
    by_attack = build.grouped(attacked, lambda cell: str(cell.config["attack"]["name"]))
    rows = [
        _row(name, {key_of(cell): cell for cell in group}, detectors, dataset, kind, note, times)
        for name, group in by_attack.items()
    ]
    rows.sort(key=lambda row: (row.group[0] != "UAs", ATTACKS.position(row.name)))
    failed = tuple(f"{cell.name}: {cell.error}" for cell in cells if cell.error is not None)
    quick = [column for column in DETECTION_METRICS.values() if column.quick]
    table = Table(
        kind="attacks", title=title, note=note, heading="Attack", base="n/hits", rows=tuple(rows),
        spans=tuple(each.span(quick) for each in detectors), parts="detectors", notes=failed,
        further=tuple(column for column in DETECTION_METRICS.values() if not column.quick),
        fields={"table": "attacks"}, intro=_INTRO,
        caption=". Per attack: ours, its 95\N{NARROW NO-BREAK SPACE}% interval, and the number printed "
                "in the paper.",
    )  # fmt: skip
    return Section(
        title=title, note=note, fields={"data": dataset, "base": base, "preset": kind}, explained="auc",
        tables=(table, sweep_table(swept, detectors, dataset, title, note, failed, times)), cells=cells,
        kinds=("attacks", "sweep"), subjects=tuple(detectors),
        facts=build.facts(cells, _facts(cells, kind), times=times),
        missing=_missing(dataset, kind, rows, detectors),
        changed=tuple((each.label, each.changed, each.about["preset"]) for each in detectors if each.changed),
        record={"detectors": [
            {
                "detector": each.label, "about": each.about, "threshold": each.threshold,
                "changed": list(each.changed), "fpr_limits_99": each.limits(),
                **detector_cell(each.clean, times),
            }
            for each in detectors
        ]},
    )  # fmt: skip


def _changed_attacks(cells: Sequence[Cell], dataset: str) -> list[str]:
    """Return the paper's names of the attacks with other hyperparameters than the paper's, each once."""
    found: dict[str, None] = {}
    for cell in cells:
        attack, eps = cell.config["attack"], cell.config.get("eps")
        name = str(attack["name"])
        if name in PAPER.rows(dataset) and changed_hyperparameters(attack, dataset, "paper", eps=eps):
            found[ATTACKS.label(name)] = None
    return list(found)


def _missing(dataset: str, kind: str, rows: Sequence[Row], detectors: Sequence[Detector]) -> dict[str, str]:
    if kind != "paper" or not PAPER.rows(dataset):
        return {}
    attacks = PAPER.rows(dataset)
    present = {each.name.partition("@")[0] for each in detectors}
    return build.missing(
        ATTACKS, attacks, [row.name for row in rows], [a.partition("@")[0] for a in attacks]
    ) | (build.missing(PAPER, PAPER.labels(), present, KNOWN))


def _row(
    name: str, cells: Mapping[str, Cell], detectors: Sequence[Detector], dataset: str, kind: str, note: str,
    times: bool,
) -> Row:  # fmt: skip
    config = next(iter(cells.values())).config
    finished = {key: cell.arrays for key, cell in cells.items() if cell.error is None}
    images = {key: (arrays["scores"], arrays["success"]) for key, arrays in finished.items()}
    success = next((part[1] for part in images.values()), np.zeros(0))
    norm = str(config["attack"]["hyperparameters"].get("norm", "other"))
    goal, objective = ATTACKS.group(name) or ("UAs", norm)
    label, n, hits = ATTACKS.label(name), int(config["n"]), int((success >= 0.5).sum())

    def printed(detector: Detector, column: str) -> Printed:
        if kind != "paper":
            return Printed(math.nan, f"the paper has no {kind} attacks")
        return PAPER.printed(dataset, name, column, detector.name)

    examples = PAPER.examples(dataset, name) if kind == "paper" else None
    about = {"attack": name, "goal": goal, "objective": objective}
    return Row(
        key=name, name=name, label=label, group=(goal, objective), n=n, hits=hits, base=f"{n}/{hits}",
        cells=cells, printed_n=examples // 2 if examples else None, fields=about,
        figures={
            each.key: {
                column.name: figure_of(
                    column, each, cells.get(each.key), images.get(each.key), printed(each, column.name),
                    dataset=dataset, attack=name, note=note,
                )
                for column in DETECTION_METRICS.values()
            }
            for each in detectors
        },
        record={"attack": name, "label": label, "goal": goal, "objective": objective, "n": n, "hits": hits},
        records={each.key: part_record(each, cells.get(each.key), times) for each in detectors},
    )  # fmt: skip


def _facts(cells: Sequence[Cell], kind: str) -> dict[str, str]:
    found = {
        **defense_of(cells[0].config),
        "Attacks": f"{kind} settings; they know the model but not the detector",
    }
    sets = {(cell.config["n"], cell.config["seed"]): None for cell in cells if "n" in cell.config}
    found["Candidates"] = "; ".join(
        f"n = {n}, correctly classified test images, seed {seed}" for n, seed in sets
    )
    clean = next((cell for cell in cells if cell.kind == CLEAN and cell.error is None), None)
    if clean is not None:
        correct = clean.arrays["correct"]
        found["Clean images"] = (
            f"all {len(correct)} test images, {int((correct >= 0.5).sum())} classified correctly; "
            "the same for every attack"
        )
    return found


DETECTORS = Study(
    name="detectors",
    options=Options, jobs=jobs, of_network=True,
    kinds=(CLEAN, DETECTION, SWEEP), title="Detector evaluation", sections=sections,
    checks=CHECKS, paper=PAPER, overview=details.overview, details=details.details,
    fields=("data", "base", "preset", "table", "cell", "detector", "threshold", "attack", "goal",
            "objective", "eps"),
    heading="Detectors", intro="", better="Better for the defender",
)  # fmt: skip

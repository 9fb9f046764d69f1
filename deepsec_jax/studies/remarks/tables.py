"""The remarks as a table and a page: each claim with its statistic, interval and verdict."""

import math
from collections.abc import Iterable

import numpy as np

from deepsec_jax.metrics import Column, Summary
from deepsec_jax.runs.cells import KINDS, Cell
from deepsec_jax.studies.remarks import attacks, cases, defenses, detectors, review
from deepsec_jax.studies.remarks.claims import NOT_MEASURED, Verdict
from deepsec_jax.studies.remarks.evidence import Evidence, evidence_of
from deepsec_jax.studies.study import Study
from deepsec_jax.tables import build
from deepsec_jax.tables.checks import Check
from deepsec_jax.tables.page import Block, Detail
from deepsec_jax.tables.published import UNPUBLISHED, Printed
from deepsec_jax.tables.table import Finding, Row, Section, Span, Table

GROUPS = {
    "1": "Remark 1: success", "2": "Remark 2: imperceptibility", "3": "Remark 3: robustness of images",
    "4": "Remark 4: utility of defenses", "5": "Remark 5: defenses against attacks",
    "6": "Remark 6: detectors",
    "7": "Remark 7: transfer", "8": "Remark 8: ensembles", "R": "The review's findings",
}  # fmt: skip


def _none(cell: Cell) -> np.ndarray:
    del cell
    return np.zeros(0)


ESTIMATE = Column(
    "estimate", "estimate", "Statistic", "the statistic of the claim; its interval is over resampled images",
    "ours", "1", "neither", "all", _none,
)  # fmt: skip
_INTRO = (
    "Each claim is one statistic, with the bound beyond which the claim holds. It is confirmed or refuted if "
    "its whole interval lies on one side of the bound, and otherwise not decidable at this n. The interval "
    "is over the images: the attacks and the models are those measured, and say nothing about others."
)
_NOTHING = Printed(math.nan, "the paper prints no statistic")


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on all remarks and findings, in order."""
    return [
        verdict
        for module in (attacks, defenses, detectors, cases, review)
        for verdict in module.verdicts(evidence)
    ]


def sections(cells: Iterable[Cell], *, times: bool = True) -> list[Section]:
    """Return one section per model, data set, sample and preset.

    Args:
        cells: of any kind, also of several run directories.
        times: whether to keep values that depend on the clock and the machine's load.
    """
    every = list(cells)
    return [_section(evidence, every, times) for evidence in evidence_of(every)]


def _section(evidence: Evidence, cells: list[Cell], times: bool) -> Section:
    found = verdicts(evidence)
    used = list(evidence.attacks.values()) or list(evidence.utility.values())
    title = f"The remarks on {evidence.model}, {evidence.data}, {evidence.preset} settings"
    counts = build.grouped(found, lambda verdict: verdict.text)
    table = Table(
        kind="remarks", title=title, heading="Claim", base="n", intro=_INTRO, findings="Verdict",
        alarming=False,
        rows=tuple(_row(verdict, used) for verdict in found), spans=(Span((ESTIMATE,)),),
    )  # fmt: skip
    return Section(
        title=title, note="",
        fields={"data": evidence.data, "model": evidence.model, "preset": evidence.preset},
        tables=(table,), cells=tuple(used), kinds=("remarks",),
        facts=build.facts(used, {
            "Model": evidence.model,
            "Verdicts": ", ".join(f"{len(each)} {text}" for text, each in counts.items()),
            "Images": f"n = {evidence.n}" if evidence.n else "",
        }, times=times, model=""),
    )  # fmt: skip


def _row(verdict: Verdict, cells: list[Cell]) -> Row:
    claim = verdict.claim
    absent = "" if verdict.text != NOT_MEASURED else verdict.over
    summary = Summary(verdict.value, verdict.n, verdict.low, verdict.high) if not absent else None
    side = "above" if claim.above else "below"
    record = {
        "claim": claim.key, "says": claim.says, "statistic": claim.statistic, "bound": claim.bound,
        "side": side,
        "verdict": verdict.text, "over": verdict.over,
    }  # fmt: skip
    return Row(
        key=claim.key, name=claim.key, label=f"{claim.key}. {claim.says} ({side} {claim.bound:g})",
        group=(GROUPS[claim.key[0]],), n=verdict.n, base=str(verdict.n), cells={"": cells[0]},
        figures={"": {
            ESTIMATE.name: build.figure(ESTIMATE, summary, NOT_MEASURED, _NOTHING),
        }},
        findings=(Finding(verdict.text, absent or verdict.over),),
        fields={"claim": claim.key, "verdict": verdict.text, "says": claim.says}, record=record,
    )  # fmt: skip


def _details(section: Section, anchor: str, times: bool) -> list[Detail]:
    del anchor, times
    (table,) = section.tables
    return [
        Detail(
            key=row.key, label=row.label, figure=str(row.record["verdict"]),
            blocks=(Block("facts", {
                "Statistic": str(row.record["statistic"]),
                "Holds if": f"{row.record['side']} {row.record['bound']:g}",
                "Over" if row.record["verdict"] != NOT_MEASURED else "Lacks": str(row.record["over"]),
            }),),
        )
        for row in table.rows
    ]  # fmt: skip


REMARKS = Study(
    name="remarks", kinds=tuple(KINDS), title="The paper's remarks",
    sections=sections,
    checks=(Check(lambda section: [], "every claim has a verdict, or says what it lacks"),),
    paper=UNPUBLISHED,
    overview=lambda section, anchor: [], details=_details, heading="Claims", better="Better",
    intro="What is computed for each claim, and when it holds.",
    fields=("data", "model", "preset", "claim", "says", "verdict"), fields_after=("flags",),
)  # fmt: skip
"""Reads cells of all studies; it has none of its own, so it is not in ``STUDIES``."""

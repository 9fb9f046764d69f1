"""The rows of the ensembles study: replayed attacks, attacks on whole ensembles, the worst case."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepsec_jax.metrics import Column, Summary, summarise
from deepsec_jax.studies.attacks.tables import goal_and_objective
from deepsec_jax.studies.ensembles import figures, votes, words
from deepsec_jax.studies.ensembles.drawn import BEST, LABELS
from deepsec_jax.studies.ensembles.figures import (
    AVERAGED,
    BEST_MEMBER,
    CLEAN,
    CONFIDENCE,
    VOTED,
    WORST_MEMBER,
)
from deepsec_jax.studies.ensembles.known import Known, Rule
from deepsec_jax.studies.security.gating.gates import FEW, SMALL, UNTRIED
from deepsec_jax.studies.security.worst import Threat, usual_threats, worst_case
from deepsec_jax.tables import build
from deepsec_jax.tables.published import Printed, Published, Reason
from deepsec_jax.tables.table import Figure, Finding, Row, Span, Table

PAPER = Published("ensembles")
DEFENSES = Published("defenses")
RULES: Mapping[str, tuple[str, Rule]] = {
    "averaged": ("Mean probability", votes.averaged), "voted": ("Majority vote", votes.voted)
}  # fmt: skip
NOT_WHOLE = "not attacked as a whole"
_NOTHING = Printed(math.nan, "the paper attacks no ensemble")


@dataclass(frozen=True)
class Rows:
    """Makes the tables of one section.

    Attributes:
        known: its cells.
        dataset: name of the data set.
        preset: kind of the attacks' presets.
        note: why the section does not carry the paper's title.
    """

    known: Known
    dataset: str
    preset: str
    note: str

    def replayed(self, sources: Mapping[str, str], title: str) -> Table:
        """Return the paper's table: a row per attack, a span per kind of ensemble."""
        kinds = [kind for kind in LABELS if any(each.kind == kind for each in self.known.ensembles)]
        rows = [self._replayed_row(name, source, kinds) for name, source in sources.items()]
        rows.sort(key=lambda row: (row.group[0] != "UAs", PAPER.position(row.name)))
        columns = (AVERAGED, CONFIDENCE, VOTED)
        return Table(
            kind="replayed", title=title, about="replayed", heading="Attack", base="n/hits", note=self.note,
            rows=tuple(row for group in build.grouped(rows, lambda row: row.group).values() for row in group),
            spans=tuple(Span(columns, LABELS[kind], kind, fields={"ensemble": kind}) for kind in kinds),
            further=(BEST_MEMBER, WORST_MEMBER), parts="ensembles", intro=words.REPLAYED,
            page_title="Replayed attacks", fields={"table": "replayed"},
            caption=" (replayed). Per attack: our mean, its 95\N{NARROW NO-BREAK SPACE}% interval, and the "
                    "number printed in the paper.",
        )  # fmt: skip

    def _replayed_row(self, name: str, source: str, kinds: Sequence[str]) -> Row:
        cell = self.known.sources.get(source)
        answer = next(found for (of, _), found in self.known.answers.items() if of == source)
        success = np.zeros(0) if cell is None else cell.arrays.get("success", np.zeros(0))
        goal, objective = goal_and_objective(cell or answer, name)
        n, hits = len(success), int((success >= 0.5).sum())
        found = {kind: self._of_kind(kind, name, source, success) for kind in kinds}
        fields = {"attack": name, "goal": goal, "objective": objective}
        return Row(
            key=f"replayed {name}", name=name, label=PAPER.label(name), group=(goal, objective), n=n,
            hits=hits, base=f"{n}/{hits}", figures=found, cells={"": cell or answer}, fields=fields,
            printed_n=PAPER.examples(self.dataset, name) if self.preset == "paper" else None,
            record={**fields, "n": n, "hits": hits}, records={kind: {"ensemble": kind} for kind in kinds},
        )  # fmt: skip

    def _of_kind(self, kind: str, attack: str, source: str, success: np.ndarray) -> dict[str, Figure]:
        ensembles = [each for each in self.known.ensembles if each.kind == kind]
        each = [figures.replayed_values(self.known, one.members, source) for one in ensembles]
        there = [values for values in each if values is not None]
        absent = "" if there and len(there) == len(ensembles) else "not measured"
        absent = absent or ("" if bool((success >= 0.5).any()) else "no success")
        found = {}
        for column in figures.REPLAYED:
            values = None if absent else np.mean([one[column.name] for one in there], axis=0)
            summary = None if values is None else summarise(column, values, success)
            printed = PAPER.printed(self.dataset, attack, column.name, kind)
            if self.preset != "paper" and PAPER.title(self.dataset):
                printed = Printed(math.nan, f"the paper has no {self.preset} attacks")
            another = (Reason("another model or fit", self.note),) if self.note else ()
            reasons = (*another, *PAPER.reasons(self.dataset, attack, column.name, kind))
            found[column.name] = build.figure(column, summary, absent, printed, reasons)
        return found

    def whole(self, made_on: Mapping[str, Mapping[str, str]], title: str) -> Table:
        """Return the table of attacks on whole ensembles: a row per combination and attack."""
        attacks = list(dict.fromkeys(attack for _, _, attack in self.known.whole))
        rows = []
        for members, group in self._combinations().items():
            for attack in attacks:
                values = {
                    key: figures.whole_values(self.known, rule, members, attack, made_on.get(attack, {}))
                    for key, (_, rule) in RULES.items()
                }
                rows.append(self._whole_row(members, group, attack, values))
        return Table(
            kind="whole", title=title, about="whole", heading="Attack", note=self.note, rows=tuple(rows),
            spans=_spans(figures.WHOLE),
            base="n", parts="decisions", intro=words.WHOLE, page_title="Attacks on whole ensembles",
            fields={"table": "whole"}, caption=" (whole).",
        )  # fmt: skip

    def _whole_row(
        self,
        members: tuple[str, ...],
        group: str,
        attack: str,
        values: Mapping[str, Mapping[str, np.ndarray]],
    ) -> Row:
        n = max((len(one) for found in values.values() for one in found.values()), default=0)
        fields = {"attack": attack, "members": " + ".join(members)}
        cells = {
            way: cell
            for (whole, way, name), cell in self.known.whole.items()
            if (whole, name) == (members, attack)
        }
        return Row(
            key=f"whole {members} {attack}", name=attack, label=PAPER.label(attack),
            group=(group,), n=n, base=str(n), cells=cells, fields=fields,
            figures={
                key: {column.name: _share(column, found.get(column.name)) for column in figures.WHOLE}
                for key, found in values.items()
            },
            record={**fields, "n": n}, records={key: {"decided": key} for key in values},
        )  # fmt: skip

    def worst(self, title: str) -> Table:
        """Return the table of the worst case: a row per combination and per defense alone."""
        names = list(dict.fromkeys(name for _, name in self.known.answers))
        groups: dict[tuple[str, ...], str] = {**self._combinations(), **{(name,): "Alone" for name in names}}
        cells = [cell for cell in self.known.sources.values() if cell.error is None]
        channels = next((cell.arrays["x"].shape[3] for cell in cells if "x" in cell.arrays), 1)
        threats = usual_threats(channels)
        rows = [
            self._worst_row(members, group, rule, threats)
            for members, group in groups.items()
            for rule in (RULES if len(members) > 1 else ("averaged",))
        ]
        return Table(
            kind="worst", title=title, about="worst case", heading="Model", note=self.note, base="n",
            rows=tuple(rows), intro=words.WORST, page_title="Worst case",
            spans=(Span((CLEAN, *(_column(threat) for threat in threats))),),
            fields={"table": "worst"}, caption=" (worst case).",
        )  # fmt: skip

    def _worst_row(
        self, members: tuple[str, ...], group: str, decided: str, threats: Sequence[Threat]
    ) -> Row:
        rule = RULES[decided][1]
        clean, cells = self.known.clean(members), self.known.attacked(rule, members)
        n = len(cells[0].arrays["labels"]) if cells else 0
        right = None if clean is None or not n else votes.right(rule(clean), cells[0].arrays["labels"])
        found = {CLEAN.name: _share(CLEAN, right)}
        findings: list[Finding] = []
        for threat in threats:
            case = worst_case(cells, threat)
            values = None if case is None or not case.used else case.robust
            found[_column(threat).name] = _share(_column(threat), values, "no attack within it")
            if values is None:
                findings.append(Finding(UNTRIED, f"{threat.label}: no attack changed an image so little"))
        attacked = any(whole == members for whole, _, _ in self.known.whole) or len(members) == 1
        if not attacked:
            findings.append(Finding(NOT_WHOLE, "only images that were made on other models were tried"))
        if n < FEW:
            findings.append(Finding(SMALL, f"n = {n}: take at least {FEW} images for a claim"))
        label = " + ".join(DEFENSES.label(name) for name in members)
        label += "" if decided == "averaged" else ", vote"
        fields = {"members": " + ".join(members), "ensemble": group, "decided": decided}
        return Row(
            key=f"worst {members} {decided}", name=label, label=label, group=(group,), n=n, base=str(n),
            cells={"": cells[0]} if cells else {}, figures={"": found}, findings=tuple(findings),
            struck=not attacked or n < FEW, fields=fields,
            record={**fields, "n": n, "attacked_as_a_whole": attacked},
        )  # fmt: skip

    def _combinations(self) -> dict[tuple[str, ...], str]:
        """Return members -> the kinds and numbers of the ensembles that have them."""
        found: dict[tuple[str, ...], list[str]] = {}
        for each in self.known.ensembles:
            number = "" if each.kind == BEST else f" {each.number + 1}"
            found.setdefault(each.members, []).append(f"{LABELS[each.kind]}{number}")
        return {
            members: f"{', '.join(kinds)}: {' + '.join(DEFENSES.label(name) for name in members)}"
            for members, kinds in found.items()
        }


def _spans(columns: tuple[Column, ...]) -> tuple[Span, ...]:
    """Return the columns once per rule of decision."""
    return tuple(Span(columns, label, key, fields={"decided": key}) for key, (label, _) in RULES.items())


def _column(threat: Threat) -> Column:
    formula = "share of all n images that survive every attack within the radius"
    return replace(CLEAN, name=f"robust_{threat.norm}_{threat.eps:.4g}", title=threat.label, formula=formula)


def _share(column: Column, values: np.ndarray | None, absent: str = "not measured") -> Figure:
    summary: Summary | None = None if values is None else summarise(column, values, np.ones(len(values)))
    return build.figure(column, summary, absent, _NOTHING)

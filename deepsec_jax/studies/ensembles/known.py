"""What the cells of one study of ensembles know: each member's answers, and from them each ensemble's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepsec_jax.runs.cells import ATTACK, DRAWN, MEMBER, SECURITY, WHOLE, Cell
from deepsec_jax.studies.ensembles import votes
from deepsec_jax.studies.ensembles.cells import CLEAN
from deepsec_jax.studies.ensembles.drawn import Ensemble
from deepsec_jax.studies.security.worst import distances

Rule = Callable[[Sequence[np.ndarray]], np.ndarray]
"""``votes.averaged`` or ``votes.voted``."""


@dataclass(frozen=True)
class Known:
    """The cells of one section, by what they are about.

    Attributes:
        sources: name of a cell -> cell with adversarial images, of the base or of one defense.
        answers: (name of the source, defense) -> cell of its answers.
        whole: (members, way, attack) -> cell of an attack on a whole ensemble.
        ensembles: the combinations.
    """

    sources: Mapping[str, Cell]
    answers: Mapping[tuple[str, str], Cell]
    whole: Mapping[tuple[tuple[str, ...], str, str], Cell]
    ensembles: tuple[Ensemble, ...]

    def said(self, members: Sequence[str], source: str) -> list[np.ndarray] | None:
        """Return the members' probabilities on the images of a source; None if one is missing or failed."""
        cells = [self.answers.get((source, name)) for name in members]
        found = [cell.arrays["probabilities"] for cell in cells if cell is not None and cell.error is None]
        return found if len(found) == len(members) else None

    def clean(self, members: Sequence[str]) -> list[np.ndarray] | None:
        """Return the members' probabilities on the clean images."""
        return self.said(members, "")

    def robust(
        self, rule: Rule, members: Sequence[str], said: Sequence[np.ndarray] | None, labels: np.ndarray
    ) -> np.ndarray | None:
        """Return the share of draws in which an ensemble stays right, also on the clean image, [N]."""
        clean = self.clean(members)
        if said is None or clean is None:
            return None
        return np.asarray(np.minimum(votes.right(rule(clean), labels), votes.right(rule(said), labels)))

    def attacked(self, rule: Rule, members: tuple[str, ...]) -> list[Cell]:
        """Return every attack that reaches an ensemble, with the arrays that the worst case reads.

        They are images made on the base and on each single defense, and on the whole ensemble.
        """
        clean = self.clean(members)
        if clean is None:
            return []
        found = []
        for name, cell in self.sources.items():
            said = self.said(members, name)
            if said is not None and cell.error is None:
                found.append(_judged(cell, rule, clean, said))
        for (whole, _, _), cell in self.whole.items():
            if whole == members and cell.error is None:
                found.append(_judged(cell, rule, clean, members_of(cell)))
        return found


def members_of(cell: Cell) -> list[np.ndarray]:
    """Return the members' probabilities of an attack on a whole ensemble."""
    return list(np.moveaxis(cell.arrays["probabilities"], 1, 0))


def _judged(cell: Cell, rule: Rule, clean: Sequence[np.ndarray], said: Sequence[np.ndarray]) -> Cell:
    labels = cell.arrays["labels"]
    arrays = {
        "labels": labels, "clean": votes.right(rule(clean), labels),
        "right_or_rejected": votes.right(rule(said), labels),
    }  # fmt: skip
    if "linf" in cell.arrays:
        arrays |= {name: cell.arrays[name] for name in ("l0", "l1", "l2", "linf")}
    else:
        arrays |= distances(cell.arrays["x"], cell.arrays["x_adv"])
    return replace(cell, arrays=arrays)


def known_of(cells: Iterable[Cell], attacks: Iterable[Cell]) -> Known:
    """Return what the cells of one section know.

    Args:
        cells: of the kinds of ensembles.
        attacks: of the base and of single defenses, of any study.
    """
    every = list(cells)
    answers = {
        (str(cell.config["source"]), str(cell.config["defense"]["name"])): cell
        for cell in every
        if cell.kind == MEMBER
    }
    wanted = {source for source, _ in answers}
    whole = {
        (
            tuple(str(member["defense"]["name"]) for member in cell.config["members"]),
            str(cell.config["access"]), str(cell.config["attack"]["name"]),
        ): cell
        for cell in every
        if cell.kind == WHOLE
    }  # fmt: skip
    drawn = [cell.config["ensemble"] for cell in every if cell.kind == DRAWN]
    return Known(
        {cell.name: cell for cell in attacks if cell.kind in (ATTACK, SECURITY) and cell.name in wanted},
        answers, whole,
        tuple(
            Ensemble(each["kind"], int(each["number"]), tuple(str(one["name"]) for one in each["members"]))
            for each in drawn
        ),
    )  # fmt: skip


def accesses(known: Known) -> dict[str, str]:
    """Return the name of each source -> what its images were made on: ``base`` or a defense."""
    return {
        source: str(cell.config["access"])
        for (source, _), cell in known.answers.items()
        if cell.config["access"] != CLEAN
    }

"""The columns of the ensembles study, and their values of one image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from deepsec_jax.metrics import Column
from deepsec_jax.studies.ensembles import votes
from deepsec_jax.studies.ensembles.cells import AVERAGE, LOGITS
from deepsec_jax.studies.ensembles.known import Known, Rule, members_of


def _none(cell: object) -> None:
    del cell


AVERAGED = Column(
    "averaged", "accuracy", "Acc.", "share of the images that fool the undefended model to which the mean "
    "of the members' probabilities gives the right class", "V-B", "share", "higher", "successful", _none,
    rate=True,
)  # fmt: skip
CONFIDENCE = Column(
    "averaged_confidence", "confidence", "Conf.", "mean probability of the class that the mean of the "
    "members' probabilities predicts, over the same images", "V-B", "1", "higher", "successful", _none,
    bounds=(0.0, 1.0),
)  # fmt: skip
VOTED = replace(
    AVERAGED, name="voted", title="Vote", section="ours",
    formula="share of the same images on which the majority of the members predicts the right class; among "
    "classes with equally many votes the mean probability decides",
)  # fmt: skip
BEST_MEMBER = replace(
    AVERAGED, name="best_member", title="Best member", section="ours",
    formula="accuracy of the member that is right most often on these images",
)  # fmt: skip
WORST_MEMBER = replace(
    AVERAGED, name="worst_member", title="Worst member", section="ours",
    formula="accuracy of the member that is right least often on these images",
)  # fmt: skip
REPLAYED = (AVERAGED, CONFIDENCE, VOTED, BEST_MEMBER, WORST_MEMBER)

CLEAN = replace(
    AVERAGED, name="clean", title="Clean", section="ours", over="all",
    formula="share of the n clean images that are right",
)  # fmt: skip
ON_BASE = replace(
    CLEAN, name="on_base", title="On base",
    formula="share of all n images that stay right if the attack is made on the undefended model",
)  # fmt: skip
ON_MEMBERS = replace(
    CLEAN, name="on_members", title="On members",
    formula="share of all n images that stay right whichever member the attack is made on",
)  # fmt: skip
ON_MEAN = replace(
    CLEAN, name="on_average", title="On mean P",
    formula="share of all n images that stay right if the attack follows the mean probabilities",
)  # fmt: skip
ON_LOGITS = replace(
    CLEAN, name="on_logits", title="On mean logits",
    formula="share of all n images that stay right if the attack follows the mean logits",
)  # fmt: skip
WORST = replace(
    CLEAN, name="worst", title="Worst", formula="share of all n images that stay right in each of these cases"
)  # fmt: skip
WHOLE = (CLEAN, ON_BASE, ON_MEMBERS, ON_MEAN, ON_LOGITS, WORST)


def replayed_values(known: Known, members: Sequence[str], source: str) -> dict[str, np.ndarray] | None:
    """Return column -> values of one ensemble on replayed images; None if a member's answers are missing."""
    said, cell = known.said(members, source), known.sources.get(source)
    if said is None or cell is None or cell.error is not None:
        return None
    labels, hits = cell.arrays["labels"], cell.arrays["success"] >= 0.5
    alone = [votes.right(votes.averaged([one]), labels) for one in said]
    means = [one[hits].mean() if hits.any() else 0.0 for one in alone]
    return {
        AVERAGED.name: votes.right(votes.averaged(said), labels), CONFIDENCE.name: votes.confidence(said),
        VOTED.name: votes.right(votes.voted(said), labels),
        BEST_MEMBER.name: alone[int(np.argmax(means))], WORST_MEMBER.name: alone[int(np.argmin(means))],
    }  # fmt: skip


def whole_values(
    known: Known, rule: Rule, members: tuple[str, ...], attack: str, sources: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return column -> values of one ensemble under one attack; a missing column was not measured.

    Args:
        known: the cells.
        rule: how the members decide.
        members: names of the defenses.
        attack: name of the attack's preset row.
        sources: base or defense -> name of the cell with the images made on it.
    """
    clean = known.clean(members)
    if clean is None:
        return {}
    labels = next(known.answers["", name].arrays["labels"] for name in members if ("", name) in known.answers)
    found: dict[str, np.ndarray] = {CLEAN.name: votes.right(rule(clean), labels)}

    def robust(source: str | None) -> np.ndarray | None:
        said = None if source is None else known.said(members, source)
        return known.robust(rule, members, said, labels)

    base = robust(sources.get("base"))
    if base is not None:
        found[ON_BASE.name] = base
    each = [robust(sources.get(name)) for name in members]
    there = [values for values in each if values is not None]
    if len(there) == len(members):
        found[ON_MEMBERS.name] = np.minimum.reduce(there)
    for column, way in ((ON_MEAN, AVERAGE), (ON_LOGITS, LOGITS)):
        cell = known.whole.get((members, way, attack))
        if cell is not None and cell.error is None:
            values = known.robust(rule, members, members_of(cell), labels)
            if values is not None:
                found[column.name] = values
    under = [values for name, values in found.items() if name != CLEAN.name]
    if under:
        found[WORST.name] = np.minimum.reduce(under)
    return found

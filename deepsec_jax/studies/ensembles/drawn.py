"""Which defenses an ensemble has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from deepsec_jax.studies.ensembles.options import SIZE

RANDOM, INTERCLASS, BEST = "random", "interclass", "best"
"""The paper's ways to choose members."""

LABELS = {RANDOM: "Completely-random", INTERCLASS: "Interclass-random", BEST: "Best-defense"}


@dataclass(frozen=True)
class Ensemble:
    """One combination of defenses.

    Attributes:
        kind: of :data:`LABELS`.
        number: 0, 1, ... of the random ones.
        members: names of the defenses, in the order in which they were given.
    """

    kind: str
    number: int
    members: tuple[str, ...]


def draw(groups: Mapping[str, str], best: Sequence[str], *, repeats: int, seed: int) -> list[Ensemble]:
    """Return the ensembles of a study.

    Completely-random ones have :data:`SIZE` members, interclass-random ones one of each group.  Those of one
    kind differ; if there are fewer combinations than ``repeats``, all are returned.

    Args:
        groups: name of each defense -> its category, in order.
        best: names of the best-defense ensemble; without one of them there is none.
        repeats: number of random ensembles of each kind.
        seed: of the draw.
    """
    names = list(groups)
    categories = list(dict.fromkeys(groups.values()))
    any_three = list(combinations(names, SIZE))
    one_each = [
        tuple(sorted(chosen, key=names.index))
        for chosen in product(*([name for name in names if groups[name] == kind] for kind in categories))
    ]
    generator = np.random.default_rng(seed)
    found = []
    for kind, possible in ((RANDOM, any_three), (INTERCLASS, one_each if len(categories) == SIZE else [])):
        order = generator.permutation(len(possible))[:repeats]
        found += [Ensemble(kind, number, possible[place]) for number, place in enumerate(order)]
    if set(best) <= set(names):
        found.append(Ensemble(BEST, 0, tuple(sorted(best, key=names.index))))
    return found

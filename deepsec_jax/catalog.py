"""Looking names up in the tables of the house, with a helpful word when a name is not there."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return ``table[name]``; raise KeyError that names near matches and all known names."""
    if name in table:
        return table[name]
    near = get_close_matches(str(name), table, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UnknownName(f"unknown {kind} {name!r}.{hint} Known: {', '.join(table)}.")


class UnknownName(KeyError):
    """A name that is in no table; prints as one plain line (KeyError would show it quoted)."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Card:
    """What a table row says about an algorithm.

    Attributes:
        name: name in the paper.
        title: one line.
        reference: authors, title, venue, arXiv.
        goal: "untargeted" or "targeted", as the paper files it.
        kind: "budget" (stays within eps), "minimum-norm", or "universal".
        budget: the field that bounds a minimum-norm attack all the same; None where nothing does.
        version: of the results.  Raise it with every change that moves them: cells of earlier versions are
            then computed again.  ``tests/test_golden.py`` fails where one was forgotten.
    """

    name: str
    title: str
    reference: str
    goal: str
    kind: str
    budget: str | None = None
    version: int = 1


def versions(algorithm: Any) -> dict[str, int]:
    """Return class name -> version of an attack, defense or detector and of all that it holds.

    It decides results, and so it stands in a cell's config.  A class has its version in its ``card``, or,
    without a card, in a class attribute ``version``.  A class with neither is left out.  One that makes
    others when it is called names their classes in ``made_of``.
    """
    if isinstance(algorithm, tuple | list):
        return {name: number for part in algorithm for name, number in versions(part).items()}
    if not is_dataclass(algorithm):
        return {}
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    held = [] if isinstance(algorithm, type) else [getattr(algorithm, f.name) for f in fields(algorithm)]
    card = getattr(kind, "card", None)
    number = getattr(kind, "version", None) if card is None else card.version
    own = {kind.__name__: number} if isinstance(number, int) else {}
    return dict(sorted({**own, **versions([*held, *getattr(kind, "made_of", ())])}.items()))

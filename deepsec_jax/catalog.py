"""Lookup of names in tables, with near matches for an unknown name."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return ``table[name]``; the KeyError for an unknown name lists near matches and all known names."""
    if name in table:
        return table[name]
    near = get_close_matches(str(name), table, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UnknownName(f"unknown {kind} {name!r}.{hint} Known: {', '.join(table)}.")


class UnknownName(KeyError):
    """An unknown name; prints as one plain line (a KeyError would be quoted)."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Card:
    """The description of an algorithm in a table.

    Attributes:
        name: name in the paper.
        title: one line.
        reference: authors, title, venue, arXiv.
        goal: "untargeted" or "targeted", as in the paper.
        kind: "budget" (stays within eps), "minimum-norm", or "universal".
        budget: the field that bounds a minimum-norm attack; None if unbounded.
        stronger_than: keys of attacks that it should beat at one radius; tables say where it does not.
        version: of the results.  Increase it with every change of results: cells of earlier versions are then
            computed again.  ``tests/test_golden.py`` fails if an increase was forgotten.
    """

    name: str
    title: str
    reference: str
    goal: str
    kind: str
    budget: str | None = None
    stronger_than: tuple[str, ...] = ()
    version: int = 1

    @property
    def unbounded(self) -> bool:
        """Whether nothing bounds the distance of a minimum-norm attack, so that it should always succeed."""
        return self.kind == "minimum-norm" and self.budget is None


def versions(algorithm: Any) -> dict[str, int]:
    """Return class name -> version of an attack, defense or detector and of its parts.

    Versions are in a cell's config, because they determine results.  A class has its version in its ``card``,
    or, without a card, in a class attribute ``version``.  A class with neither is left out.  A class that
    creates others in its call lists them in ``made_of``.
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

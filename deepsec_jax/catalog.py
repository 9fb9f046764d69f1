"""Looking names up in the tables of the house, with a helpful word when a name is not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

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
    """

    name: str
    title: str
    reference: str
    goal: str
    kind: str
    budget: str | None = None

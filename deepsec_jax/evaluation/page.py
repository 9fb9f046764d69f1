"""Pages: templates of this package filled in, and what their sections share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from deepsec_jax.evaluation.paper_table import Entry
from deepsec_jax.evaluation.published_file import Reason


def page(template: str, **values: Any) -> str:
    """Return a template's text with its values; what a value holds is escaped."""
    environment = Environment(
        loader=PackageLoader("deepsec_jax.evaluation"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**values)


def reasons_in(entries: Iterable[Entry], anchor: str) -> dict[str, tuple[str, Reason]]:
    """Return label -> (id in the page, reason) of all reasons of differences, in the order of first use.

    Args:
        entries: figures; those of which the paper's lies in our interval need no reason.
        anchor: id of their section.
    """
    found: dict[str, Reason] = {}
    for entry in entries:
        if not entry.inside:
            found |= {reason.label: reason for reason in entry.reasons if reason.label not in found}
    return {label: (f"{anchor}-r{index}", reason) for index, (label, reason) in enumerate(found.items())}


class Titled(Protocol):
    """A section of a page."""

    @property
    def title(self) -> str:
        """Its heading."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What it is about, label -> text."""
        ...


def told_apart(sections: Sequence[Titled]) -> list[str]:
    """Return the titles of a list of contents: those that are equal with the facts that are not."""
    told = []
    for section in sections:
        namesakes = [other.facts for other in sections if other.title == section.title]
        differing = (
            text
            for label, text in section.facts.items()
            if any(facts.get(label) != text for facts in namesakes)
        )
        told.append(", ".join((section.title, *differing)))
    return told


def named(views: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the views of a page's sections with ``name``, their titles in the list of contents."""
    names = told_apart([view["section"] for view in views])
    return [view | {"name": name} for view, name in zip(views, names, strict=True)]

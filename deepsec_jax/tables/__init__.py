"""Tables: our figures and the paper's, one renderer per format; independent of attacks and jax."""

from deepsec_jax.tables.checks import Check
from deepsec_jax.tables.published import Published
from deepsec_jax.tables.table import Figure, Finding, Row, Section, Span, Table

__all__ = [
    "Check",
    "Figure",
    "Finding",
    "Published",
    "Row",
    "Section",
    "Span",
    "Table",
]


def __dir__() -> list[str]:
    return __all__

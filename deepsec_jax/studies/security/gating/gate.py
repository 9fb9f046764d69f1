"""One gate: a condition that a figure must meet before it may be called robust accuracy."""

from dataclasses import dataclass

from deepsec_jax.tables.table import Finding


@dataclass(frozen=True)
class Gate:
    """A condition that is not met.

    Attributes:
        finding: label and sentence.
        closed: whether the model's figures may not be called robust accuracy.
        remedy: what to do or to run next.
    """

    finding: Finding
    closed: bool
    remedy: str = ""

    def __str__(self) -> str:
        """Return label, sentence and remedy."""
        remedy = f" Next: {self.remedy}." if self.remedy else ""
        return f"{self.finding.label}: {self.finding.text}.{remedy}"

"""What mkdocs fills in while it builds: tables from the code's own tables, one reference entry a module.

A page asks with a comment: ``<!-- table: NAME -->``, a name of :data:`TABLES`, or ``<!-- reference -->``.
"""

import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every request of a page; a link out of docs/ becomes the name of the file in the checkout."""
    filled = re.sub(r"<!-- table: (\w+) -->", lambda asked: TABLES[asked[1]](), markdown)
    filled = filled.replace("<!-- reference -->", reference())
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", filled)


def on_page_content(html: str, **_: Any) -> str:
    """Show what a docstring refers to as code: Markdown leaves the ``:class:`` of Sphinx before it."""
    return re.sub(r":(?:attr|class|data|exc|func|meth|mod):<code>~?([^<]+)</code>", r"<code>\1</code>", html)


def attacks_table() -> str:
    """Return the attacks as a Markdown table."""
    from deepsec_jax.attacks import ATTACKS

    rows = ((f"`{name}`", cls.card.title, cls.card.goal, cls.card.reference) for name, cls in ATTACKS.items())
    return _markdown(("name", "what it does", "goal", "reference"), rows)


def defenses_table() -> str:
    """Return the defenses as a Markdown table."""
    from deepsec_jax.defenses import DEFENSES

    cards = {name: defense.card for name, defense in DEFENSES.items()}
    rows = ((f"`{name}`", card.title, card.kind, card.reference) for name, card in cards.items())
    return _markdown(("name", "what it does", "kind", "reference"), rows)


def studies_table() -> str:
    """Return the studies as a Markdown table."""
    from deepsec_jax.studies.table import STUDIES

    rows = (
        (f"`deepsec evaluate {name}`", (study.options.__doc__ or "").partition("\n")[0], f"`{name}.html`")
        for name, study in STUDIES.items()
    )
    return _markdown(("command", "what it does", "page"), rows)


def metrics_table() -> str:
    """Return the columns of the attack metrics as a Markdown table."""
    from deepsec_jax.metrics import METRICS

    return _columns(METRICS, "attacker")


def defense_metrics_table() -> str:
    """Return the columns of the defense metrics as a Markdown table."""
    from deepsec_jax.metrics import DEFENSE_METRICS

    return _columns(DEFENSE_METRICS, "defender")


def detection_metrics_table() -> str:
    """Return the columns of the detection metrics as a Markdown table."""
    from deepsec_jax.metrics import DETECTION_METRICS

    return _columns(DETECTION_METRICS, "defender")


def _columns(table: Mapping[str, Any], side: str) -> str:
    rows = (
        (f"`{name}`", column.title, column.formula, column.section, column.unit, column.better, column.over,
         "host" if column.host else "device")
        for name, column in table.items()
    )  # fmt: skip
    head = (
        "name",
        "heading",
        "values",
        "section",
        "unit",
        f"better for the {side}",
        "averaged over",
        "runs on",
    )
    return _markdown(head, rows)


TABLES = {
    "attacks": attacks_table, "defenses": defenses_table, "metrics": metrics_table, "studies": studies_table,
    "defense_metrics": defense_metrics_table, "detection_metrics": detection_metrics_table,
}  # fmt: skip


def reference() -> str:
    """Return one mkdocstrings entry for every public module."""
    import deepsec_jax

    modules = pkgutil.walk_packages(deepsec_jax.__path__, "deepsec_jax.")
    public = sorted(module.name for module in modules if not module.name.rpartition(".")[2].startswith("_"))
    return "\n\n".join(f"::: {name}" for name in public)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])

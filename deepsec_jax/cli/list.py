"""``deepsec list``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from deepsec_jax.catalog import Card

What = Literal["all", "attacks", "defenses", "metrics", "models", "recipes", "data"]


@dataclass(frozen=True)
class List:
    """Show what there is: attacks, defenses, metrics, models, recipes, data sets.

    Attributes:
        what: Which table to show.
    """

    what: tyro.conf.Positional[What] = "all"

    def run(self) -> None:
        """Print the tables."""
        from rich.console import Console

        console = Console()
        tables = {
            "attacks": _attacks, "defenses": _defenses, "metrics": _metrics, "models": _models,
            "recipes": _recipes, "data": _data,
        }  # fmt: skip
        for name, table in tables.items():
            if self.what in ("all", name):
                console.print(table())


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))


def _attacks() -> "Table":
    from deepsec_jax.attacks import ATTACKS

    table = _table("attacks", "name", "what it does", "goal", "reference")
    for name, attack in ATTACKS.items():
        card: Card = attack.card
        table.add_row(name, card.title, card.goal, card.reference)
    return table


def _defenses() -> "Table":
    from deepsec_jax.defenses import DEFENSES

    table = _table("defenses", "name", "what it does", "kind", "reference")
    for name, defense in DEFENSES.items():
        card: Card = defense.card
        table.add_row(name, card.title, card.kind, card.reference)
    return table


def _metrics() -> "Table":
    from deepsec_jax.metrics import DEFENSE_METRICS, DETECTION_METRICS, METRICS

    title = "metrics of attacks, of defenses, then of detectors"
    table = _table(title, "name", "values", "over", "better", "on")
    table.columns[0].no_wrap = True
    for name, column in (*METRICS.items(), *DEFENSE_METRICS.items(), *DETECTION_METRICS.items()):
        where = "host" if column.host else "device"
        table.add_row(name, f"{column.formula} ({column.section})", column.over, column.better, where)
    return table


def _models() -> "Table":
    from deepsec_jax.models import MODELS

    table = _table("models", "name", "network")
    for name, model in MODELS.items():
        network = getattr(model, "func", model)
        table.add_row(name, (network.__doc__ or "").strip().partition("\n")[0])
    return table


def _recipes() -> "Table":
    from deepsec_jax.training import RECIPES

    table = _table("recipes", "name", "data", "model", "epochs", "source")
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.data, recipe.model, str(recipe.epochs), recipe.source)
    return table


def _data() -> "Table":
    from deepsec_jax.data import DATASETS

    table = _table("data sets", "name", "where it comes from")
    for name, dataset in DATASETS.items():
        table.add_row(name, (dataset.__doc__ or "").strip().partition("\n")[0])
    table.add_row("mnist, cifar10, ...", "any TFDS image set: deepsec prepare NAME, or --data-dir")
    table.add_row("PATH.npz", "your own arrays x_train, y_train, x_test, y_test")
    return table

"""``deepsec list``: what the source code declares; jax is not imported."""

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro

from deepsec_jax import declared
from deepsec_jax.pretrained import pretrained_card, pretrained_names

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

What = Literal["all", "attacks", "defenses", "metrics", "models", "recipes", "data", "pretrained"]


@dataclass(frozen=True)
class List:
    """List attacks, defenses, metrics, models, recipes, data sets and pretrained models.

    Attributes:
        what: Which table to show.
    """

    what: tyro.conf.Positional[What] = "all"

    def run(self) -> None:
        """Print the tables."""
        from rich.console import Console

        console = Console()
        tables = {
            "attacks": lambda: _cards("attacks", "goal"), "defenses": lambda: _cards("defenses", "kind"),
            "metrics": _metrics, "models": _models, "recipes": _recipes, "data": _data,
            "pretrained": _pretrained,
        }  # fmt: skip
        for name, table in tables.items():
            if self.what in ("all", name):
                console.print(table())


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True  # a name is copied whole
    return table


def _cards(package: str, group: str) -> "Table":
    table = _table(package, "name", "what it does", group, "reference")
    for name, each in declared.table(f"deepsec_jax.{package}.table", package.upper()).items():
        table.add_row(name, each.card.title, getattr(each.card, group), each.card.reference)
    return table


def _metrics() -> "Table":
    title = "metrics of attacks, of defenses, then of detectors"
    table = _table(title, "name", "values", "over", "better", "on")
    for column in metric_columns():
        where = "host" if column["host"] else "device"
        values = f"{column['formula']} ({column['section']})"
        table.add_row(column["name"], values, column["over"], column["better"], where)
    return table


def metric_columns() -> list[dict[str, Any]]:
    """Return the declared fields of every metric's column: of attacks, of defenses, then of detectors."""
    detection = "deepsec_jax.metrics.detection_table"
    first = declared.literal(detection, "_ORDER")
    detectors = _columns(detection, "DETECTION_MODULES", "DETECTION_COLUMNS")
    detectors.sort(key=lambda column: first.index(column["name"]) if column["name"] in first else len(first))
    return [
        *_columns("deepsec_jax.metrics.table", "MODULES", "COLUMNS"),
        *_columns("deepsec_jax.metrics.defense_table", "DEFENSE_MODULES", "DEFENSE_COLUMNS"),
        *detectors,
    ]


def _columns(table: str, modules: str, columns: str) -> list[dict[str, Any]]:
    every = [
        each for module in declared.modules(table, modules) for each in declared.records(module, columns)
    ]
    return [column for column in every if not column["program"] or shutil.which(column["program"])]


def _models() -> "Table":
    table = _table("models", "name", "network")
    for name, model in declared.table("deepsec_jax.models.table", "MODELS").items():
        table.add_row(name, model.first_line)
    return table


def _recipes() -> "Table":
    table = _table("recipes", "name", "data", "model", "epochs", "source")
    for row in declared.records("deepsec_jax.training.recipe", "ROWS"):
        table.add_row(row["name"], row["data"], row["model"], str(row["epochs"]), row["source"])
    return table


def _data() -> "Table":
    table = _table("data sets", "name", "where it comes from")
    for name, dataset in declared.table("deepsec_jax.data.table", "DATASETS").items():
        table.add_row(name, dataset.first_line)
    table.add_row("mnist, cifar10, ...", "any TFDS image set: deepsec prepare NAME, or --data-dir")
    table.add_row("PATH.npz", "your own arrays x_train, y_train, x_test, y_test")
    table.add_row("./FOLDER", "your own images, one folder per class; or a saved data set of Hugging Face")
    return table


def _pretrained() -> "Group":
    from rich.console import Group
    from rich.text import Text

    table = _table(
        "pretrained models", "name", "network", "data", "defense", "test accuracy", "robust accuracy", "gates"
    )
    lines = []
    for name in pretrained_names():
        card = pretrained_card(name)
        accuracy = card["figures"].get("test_accuracy")
        defense = card.get("defense")
        table.add_row(
            name, card["recipe"]["model"], card["recipe"]["data"],
            f"{defense['class']}, preset {defense['preset']}" if defense else "",
            "" if accuracy is None else f"{100 * accuracy:.2f} % of n = {card['figures']['test_images']}",
            *_robust(card),
        )  # fmt: skip
        again = card["card"]["command"] if "card" in card else f"deepsec robustness pretrained/{name} --card"
        lines += [
            f"{name} is made, and its robust accuracy measured again, by",
            f"  {made_by(card)}",
            f"  {again}",
        ]
    return Group(table, *(Text(line, no_wrap=True, overflow="ignore") for line in lines))


def _robust(card: dict[str, Any]) -> tuple[str, str]:
    """Return the robust accuracy of a pretrained model and its gates as text."""
    found = card.get("card")
    if found is None:
        return "not measured", ""
    if found["digest"] != card["whole"]:
        return "measured on other weights", ""
    norm, share = {"linf": "L\N{INFINITY}", "l2": "L2"}[found["norm"]], found["robust"]
    gates = "; ".join(gate.partition(":")[0] for gate in found["gates"])
    said = (
        f"{100 * share['mean']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f}) "
        f"at {norm} {found['eps']:.3g}, n = {found['n']}"
    )
    return said, f"closed: {gates}" if gates else "all hold"


def made_by(card: dict[str, Any]) -> str:
    """Return the command that made a pretrained model."""
    defense = card.get("defense")
    if defense is None:
        return f"deepsec train {card['recipe']['name']}"
    base = defense["base"]
    folder = f"pretrained/{base}" if base in pretrained_names() else f"runs/models/{base}"
    return f"deepsec defend {defense['name']} {folder} --preset {defense['preset']}"

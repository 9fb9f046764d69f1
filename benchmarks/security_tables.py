"""The tables of docs/measured-security.md, as Markdown, from the report of ``deepsec evaluate security``.

``--keep FILE`` also writes the figures themselves (CSV: table, attack, defense, column, mean, n, interval,
the paper's), which are small enough for the repository.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from deepsec_jax.studies.security.model import attack_label

KEPT = ("table", "attack", "defense", "column", "mean", "n", "low", "high", "published", "flags")
TABLES = ("undefended", "replayed", "white_box", "adaptive", "worst", "gates", "detectors")

Row = dict[str, str]


def main() -> None:
    """Print the chosen tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="folder that deepsec report has written")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--keep", type=Path, help="CSV to write")
    options = parser.parse_args()
    rows = read(options.report / "security.csv")
    if options.keep is not None:
        write_figures(options.keep, rows, read(options.report / "detectors.csv"))
    for name in options.tables:
        print(f"\n### {name}\n")
        if name == "gates":
            print("\n".join(gate_lines(worst_rows(options.report / "security.json"))))
        elif name == "detectors":
            print(detector_table(read(options.report / "detectors.csv")))
        elif name == "worst":
            print(worst_table(worst_rows(options.report / "security.json")))
        elif name == "undefended":
            print(undefended_table(read(options.report / "attacks.csv")))
        else:
            print(matrix(rows, name, "replayed_hits" if name == "replayed" else "robust"))


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_figures(path: Path, security: list[Row], detectors: list[Row]) -> None:
    """Write what the tables show, sorted, without paths and texts."""
    found = [row | {"defense": row["defense"]} for row in security]
    found += [row | {"table": f"detectors {row['table']}", "defense": row["detector"]} for row in detectors]
    found.sort(key=lambda row: [row.get(name) or "" for name in KEPT])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, KEPT, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def percent(value: str | float | None) -> str:
    """Return a share as percent with one digit."""
    return f"{100 * float(value):.1f}" if value not in ("", None) else "n/a"


def interval(row: Mapping[str, Any]) -> str:
    """Return a figure with its 95 % interval, in percent."""
    return f"{percent(row['mean'])} ({percent(row['low'])} to {percent(row['high'])})"


def matrix(rows: list[Row], table: str, column: str) -> str:
    """Return attacks x defenses: our figure, ``/`` the paper's if it has one, and n where it varies."""
    cells = {
        (row["attack"], row["defense"]): row
        for row in rows
        if row["table"] == table and row["column"] == column and row["mean"]
    }
    attacks, defenses = (unique(key[side] for key in cells) for side in (0, 1))

    def text(attack: str, defense: str) -> str:
        row = cells.get((attack, defense))
        if row is None:
            return ""
        beside = f" / {percent(row['published'])}" if row["published"] else ""
        return f"{percent(row['mean'])}{beside}"

    def count(attack: str) -> str:
        found = unique(cells[attack, each]["n"] for each in defenses if (attack, each) in cells)
        return " to ".join(sorted({min(found, key=int), max(found, key=int)}, key=int)) if found else ""

    body = [
        [attack_label(attack), count(attack), *(text(attack, each) for each in defenses)]
        for attack in attacks
    ]
    means = {
        row["defense"]: f"{percent(row['mean'])} / {percent(row['published'])}"
        for row in rows
        if table == "replayed" and row["column"] == "average_of_same" and row["attack"] == "all"
    }
    if means:
        body.append(["average", "", *(means.get(each, "") for each in defenses)])
    return markdown(["attack", "n", *defenses], body)


def worst_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the worst case, one per defense, with columns and gates."""
    return [row for section in json.loads(path.read_text("utf-8"))["sections"] for row in section["worst"]]


def worst_table(rows: list[dict[str, Any]]) -> str:
    """Return defenses x threat models: the share that survives everything, with its interval.

    Figures behind a closed gate are struck through.
    """
    columns = unique(name for row in rows for name in row["columns"])
    body = []
    for row in rows:
        line = "" if row["may_be_called_robust"] else "~~"
        shown = [
            f"{line}{interval(found)}{line}" if found["mean"] is not None else "n/a"
            for found in (row["columns"][name] for name in columns)
        ]
        counts = {found["n"] for found in row["columns"].values()}
        body.append([row["defense"], " to ".join(map(str, sorted(counts))), *shown])
    return markdown(["defense", "n", *columns], body)


def gate_lines(rows: list[dict[str, Any]]) -> Iterable[str]:
    """Yield each closed gate, with the defenses behind it."""
    behind: dict[str, list[str]] = {}
    for row in rows:
        for gate in row["gates"]:
            if gate["closed"]:
                behind.setdefault(f"{gate['label']}: {gate['text']}", []).append(row["defense"])
    for text, defenses in behind.items():
        yield f"- {', '.join(defenses)}: {text}"


def detector_table(rows: list[Row]) -> str:
    """Return attacks x detectors: AUC and TPR at the one threshold, the paper's after ``/``."""
    found = [row for row in rows if row["table"] == "attacks"]
    attacks, detectors = (unique(row[name] for row in found) for name in ("attack", "detector"))
    cells = {(row["attack"], row["detector"], row["column"]): row for row in found}

    def text(*key: str) -> str:
        row = cells.get(key)
        return (
            ""
            if row is None
            else " / ".join(percent(row[name]) for name in ("mean", "published") if row[name])
        )

    columns = [(each, name) for each in detectors for name in ("auc", "tpr")]
    return markdown(
        ["attack", *(f"{each}: {name.upper()}" for each, name in columns)],
        [[attack_label(attack), *(text(attack, *column) for column in columns)] for attack in attacks],
    )


def undefended_table(rows: list[Row]) -> str:
    """Return the misclassification rate of every attack on the undefended network, with n."""
    every = [row for row in rows if row["column"] == "mr" and row["mean"]]
    most = {row["attack"]: row for row in sorted(every, key=lambda row: int(row["n"]))}
    found = [most[name] for name in unique(row["attack"] for row in every)]
    return markdown(
        ["attack", "n", "success", "paper"],
        [
            [attack_label(row["attack"]), row["n"], interval(row),
             percent(row["published"])]
            for row in found
        ],
    )  # fmt: skip


def unique(values: Iterable[str]) -> list[str]:
    """Return values in order of appearance, each once."""
    return list(dict.fromkeys(values))


def markdown(head: list[str], body: list[list[str]]) -> str:
    """Return a Markdown table."""
    line: Callable[[list[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, body)])


if __name__ == "__main__":
    main()

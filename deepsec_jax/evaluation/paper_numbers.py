"""Columns and numbers as the paper's tables print them: digits, units, intervals, groups of columns."""

import math
import re
from collections.abc import Sequence

from deepsec_jax.evaluation.gaps import lacking
from deepsec_jax.evaluation.paper_table import TIMED, Entry, Section
from deepsec_jax.metrics import METRICS, Column, Summary

_PERCENT = {"mr": 1, "robust": 1, "accuracy": 2, "cav": 2, "crr": 2, "csr": 2, "ccv": 2,
            "tpr": 1, "fpr": 1, "auc": 1, "evasion": 1}  # fmt: skip
"""Metric -> digits after the point of its percents."""

_FAMILIES = {
    "II-B1": "Misclassification", "II-B2": "Imperceptibility", "II-B3": "Robustness", "II-B4": "Cost",
}  # fmt: skip


def family(column: Column) -> str:
    """Return the group of columns that a column stands in, after the paper's section of its metric."""
    for other in METRICS.values():
        if other.metric == column.metric and other.section in _FAMILIES:
            return _FAMILIES[other.section]
    return "Further"


def families(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Return runs of neighbouring columns of one family."""
    runs: list[tuple[str, list[Column]]] = []
    for column in columns:
        if not runs or runs[-1][0] != family(column):
            runs.append((family(column), []))
        runs[-1][1].append(column)
    return runs


def figure(column: Column, value: float) -> str:
    """Return a value with the digits of the paper's tables; n/a for NaN."""
    if math.isnan(value):
        return "n/a"
    if column.metric in _PERCENT:
        digits = _PERCENT[column.metric]
        percent = round(100 * value, digits) + 0.0  # no minus before 0.00
        return f"{percent:.{digits}f} %".replace("-", "\N{MINUS SIGN}")
    if column.metric == "cos":
        return f"{value:.4f}"
    if column.unit == "s":
        return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.2g}"
    if column.metric == "cc":
        return f"{value:.4g}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def interval(column: Column, summary: Summary) -> str:
    """Return the 95 % interval, without a unit; n/a with the reason where there is none."""
    if column.unit in TIMED and summary.n:
        return "n/a, timed once"  # for all images together, so that its mean has no interval
    if math.isnan(summary.low):
        return f"n/a, {'n = 1' if summary.n == 1 else 'all equal'}" if summary.n else "n/a"
    low, high = (figure(column, end).removesuffix(" %") for end in (summary.low, summary.high))
    if low == high:
        return low
    return f"{low} to {high}" if "\N{MINUS SIGN}" in low else f"{low}\N{EN DASH}{high}"


def short(text: str) -> str:
    """Return numbers without the 0 before their point, for the narrow columns of the page."""
    return re.sub(r"(?<!\d)0\.(?=\d{3})", ".", text)


def difference(entry: Entry) -> str:
    """Return ours less the paper's with its sign, rates in points; n/a where one is missing."""
    if math.isnan(entry.difference):
        return "n/a"
    text = figure(entry.column, abs(entry.difference))
    sign = "\N{MINUS SIGN}" if entry.difference < 0 else "+"
    return f"{sign}{text.replace(' %', ' points')}"


def published(entry: Entry) -> str:
    """Return the printed number with the digits it is printed with; n/a where the paper has none."""
    value = entry.printed.value
    if math.isnan(value):
        return "n/a"
    if entry.column.metric in _PERCENT or entry.column.metric == "cos":
        return figure(entry.column, value)
    return f"{value:.4f}" if entry.column.unit == "s" else f"{value:.3f}"


def verdict(entry: Entry) -> str:
    """Return in a few words how ours compares with the printed number; empty where nothing compares."""
    if math.isnan(entry.difference):
        return ""
    if entry.inside:
        return "the paper's lies in our interval"
    labels = "; ".join(reason.label for reason in entry.reasons)
    return labels or "no reason known"


def explanation(about: str, entry: Entry) -> str:
    """Return in a line why ours is not the printed number, ``about`` first; empty where nothing compares."""
    text = verdict(entry)
    if not text:
        return ""
    ours, theirs = figure(entry.column, entry.summary.mean), published(entry)
    return f"{about} {ours}, {theirs} in the paper ({difference(entry)}): {text}"


def absences(section: Section) -> list[str]:
    """Return why figures are n/a, one line for the attacks and columns that lack them for the same reason."""
    columns = (*section.columns, *section.further)
    rows = [row for row in section.rows if row.cell.error is None]
    finished = [row.name for row in rows]
    shown = ((row.name, [row.entries[column.name] for column in columns]) for row in rows)
    return [
        f"{titles}: n/a, n = 0 ({reason}) for {'every attack' if names == finished else ', '.join(names)}."
        for (reason, titles), names in lacking(shown).items()
    ]

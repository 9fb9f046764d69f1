"""Numbers as tables print them: digits, units, intervals."""

import math
import re
from collections.abc import Iterable, Sequence

from deepsec_jax.metrics import Column, Summary
from deepsec_jax.tables.table import Figure, Row

TIMED = ("s", "bare gradients")
"""Units of the columns that depend on the clock."""

_PERCENT = {"mr": 1, "robust": 1, "accuracy": 2, "cav": 2, "crr": 2, "csr": 2, "ccv": 2,
            "tpr": 1, "fpr": 1, "auc": 1, "evasion": 1}  # fmt: skip
"""Metric -> digits after the point of its percents."""


def number(column: Column, value: float) -> str:
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
    low, high = (number(column, end).removesuffix(" %") for end in (summary.low, summary.high))
    if low == high:
        return low
    return f"{low} to {high}" if "\N{MINUS SIGN}" in low else f"{low}\N{EN DASH}{high}"


def means(figures: Iterable[Figure]) -> list[str]:
    """Return our means as they are printed."""
    return [number(figure.column, figure.summary.mean) for figure in figures]


def intervals(figures: Iterable[Figure]) -> list[str]:
    """Return the 95 % intervals as they are printed."""
    return [interval(figure.column, figure.summary) for figure in figures]


def counts(figures: Iterable[Figure]) -> list[str]:
    """Return over how many examples each mean is."""
    return [str(figure.summary.n) for figure in figures]


def papers(figures: Sequence[Figure]) -> list[str]:
    """Return the paper's numbers; none if it has not one of them, so that a row for them is left out."""
    if all(figure.printed.absent for figure in figures):
        return []
    return [published(figure) for figure in figures]


def beside(row: Row, columns: Iterable[Column]) -> list[str]:
    """Return what stands under the figures of a row, e.g. how much was rejected; n/a where nothing does."""
    found = [row.beside.get(column.name) for column in columns]
    return ["n/a" if each is None else number(each.column, each.summary.mean) for each in found]


def told(column: Column, summary: Summary) -> str:
    """Return a mean with its interval and n, e.g. ``4.2 % (2.7-6.5) of n = 450``."""
    return f"{number(column, summary.mean)} ({interval(column, summary)}) of n = {summary.n}"


def short(text: str) -> str:
    """Return numbers without the 0 before their point, for the narrow columns of the page."""
    return re.sub(r"(?<!\d)0\.(?=\d{3})", ".", text)


def difference(figure: Figure) -> str:
    """Return ours less the paper's with its sign, rates in points; n/a where one is missing."""
    if math.isnan(figure.difference):
        return "n/a"
    text = number(figure.column, abs(figure.difference))
    sign = "\N{MINUS SIGN}" if figure.difference < 0 else "+"
    return f"{sign}{text.replace(' %', ' points')}"


def published(figure: Figure) -> str:
    """Return the printed number with the digits it is printed with; n/a where the paper has none."""
    value = figure.printed.value
    if math.isnan(value):
        return "n/a"
    if figure.column.metric in _PERCENT or figure.column.metric == "cos":
        return number(figure.column, value)
    return f"{value:.4f}" if figure.column.unit == "s" else f"{value:.3f}"


def verdict(figure: Figure) -> str:
    """Return in a few words how ours compares with the printed number; empty where nothing compares."""
    if math.isnan(figure.difference):
        return ""
    if figure.inside:
        return "the paper's lies in our interval"
    labels = "; ".join(reason.label for reason in figure.reasons)
    return labels or "no reason known"


def explanation(about: str, figure: Figure) -> str:
    """Return in a line why ours is not the printed number, ``about`` first; empty where nothing compares."""
    text = verdict(figure)
    if not text:
        return ""
    ours, theirs = number(figure.column, figure.summary.mean), published(figure)
    return f"{about} {ours}, {theirs} in the paper ({difference(figure)}): {text}"

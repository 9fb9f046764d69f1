"""Formatting of numbers in tables: digits, units, intervals."""

import math
import re
from collections.abc import Iterable, Sequence

from deepsec_jax.metrics import Column, Summary
from deepsec_jax.tables.table import Figure, Row

TIMED = ("s", "bare gradients")
"""Units of the columns that depend on the clock."""

DIGITS = 5
"""Maximum number of significant digits in text."""

_PERCENT = {"mr": 1, "robust": 1, "accuracy": 2, "cav": 2, "crr": 2, "csr": 2, "ccv": 2,
            "tpr": 1, "fpr": 1, "auc": 1, "evasion": 1}  # fmt: skip
"""Metric -> decimals of its percentages."""


def digits(value: float | None, most: int = DIGITS) -> str:
    """Return a number with at most ``most`` significant digits; n/a for None and NaN.

    Integer parts are written in full, for counts.
    """
    if value is None or math.isnan(value):
        return "n/a"
    if isinstance(value, int) or math.isinf(value):
        return str(value)
    whole = abs(value) >= 10 ** (most - 1)
    return f"{value:.0f}" if whole else f"{value:.{most}g}"


def _places(value: float, places: int) -> str:
    """Return a number with this many decimals, or fewer to keep within five digits."""
    whole = len(f"{abs(value):.0f}")
    return f"{value:.{max(0, min(places, DIGITS - whole))}f}".replace("-", "\N{MINUS SIGN}")


def number(column: Column, value: float) -> str:
    """Return a value with the decimals of the paper's tables; n/a for NaN."""
    if math.isnan(value):
        return "n/a"
    if column.metric in _PERCENT:
        places = _PERCENT[column.metric]
        percent = round(100 * value, places) + 0.0  # no minus before 0.00
        return f"{percent:.{places}f} %".replace("-", "\N{MINUS SIGN}")
    if column.metric == "cos":
        return f"{value:.4f}"
    if column.unit == "s":
        return _places(value, 4) if value >= 0.001 or value == 0 else f"{value:.2g}"
    return digits(value, 4) if column.metric == "cc" else _places(value, 3)


def interval(column: Column, summary: Summary) -> str:
    """Return the 95 % interval without a unit; n/a with the reason if there is none."""
    if column.unit in TIMED and summary.n:
        return "n/a, timed once"  # for all images together, so its mean has no interval
    if math.isnan(summary.low):
        return f"n/a, {'n = 1' if summary.n == 1 else 'all equal'}" if summary.n else "n/a"
    low, high = (number(column, end).removesuffix(" %") for end in (summary.low, summary.high))
    if low == high:
        return low
    return f"{low} to {high}" if "\N{MINUS SIGN}" in low else f"{low}\N{EN DASH}{high}"


def means(figures: Iterable[Figure]) -> list[str]:
    """Return our formatted means."""
    return [number(figure.column, figure.summary.mean) for figure in figures]


def intervals(figures: Iterable[Figure]) -> list[str]:
    """Return the formatted 95 % intervals."""
    return [interval(figure.column, figure.summary) for figure in figures]


def counts(figures: Iterable[Figure]) -> list[str]:
    """Return the number of examples of each mean."""
    return [str(figure.summary.n) for figure in figures]


def papers(figures: Sequence[Figure]) -> list[str]:
    """Return the paper's numbers; an empty list if it has none of them, so that the row is left out."""
    if all(figure.printed.absent for figure in figures):
        return []
    return [published(figure) for figure in figures]


def beside(row: Row, columns: Iterable[Column]) -> list[str]:
    """Return the figures below those of a row, e.g. the share of rejected images; n/a if missing."""
    found = [row.beside.get(column.name) for column in columns]
    return ["n/a" if each is None else number(each.column, each.summary.mean) for each in found]


def told(column: Column, summary: Summary) -> str:
    """Return a mean with its interval and n, e.g. ``4.2 % (2.7-6.5) of n = 450``."""
    return f"{number(column, summary.mean)} ({interval(column, summary)}) of n = {summary.n}"


def short(text: str) -> str:
    """Return numbers without a leading 0, for the narrow columns of the page."""
    return re.sub(r"(?<!\d)0\.(?=\d{3})", ".", text)


def difference(figure: Figure) -> str:
    """Return the signed difference ours - paper's, rates in percentage points; n/a if one is missing."""
    if math.isnan(figure.difference):
        return "n/a"
    text = number(figure.column, abs(figure.difference))
    sign = "\N{MINUS SIGN}" if figure.difference < 0 else "+"
    return f"{sign}{text.replace(' %', ' points')}"


def published(figure: Figure) -> str:
    """Return the paper's number, with at most five digits; n/a if the paper has none."""
    value = figure.printed.value
    if math.isnan(value):
        return "n/a"
    if figure.column.metric in _PERCENT or figure.column.metric == "cos":
        return number(figure.column, value)
    return _places(value, 4 if figure.column.unit == "s" else 3)


def verdict(figure: Figure) -> str:
    """Return a short comparison of ours with the paper's number; empty without one."""
    if math.isnan(figure.difference):
        return ""
    if figure.inside:
        return "the paper's lies in our interval"
    labels = "; ".join(reason.label for reason in figure.reasons)
    return labels or "no reason known"


def explanation(about: str, figure: Figure) -> str:
    """Return one line of reasons why ours differs from the paper's, ``about`` first; empty without one."""
    text = verdict(figure)
    if not text:
        return ""
    ours, theirs = number(figure.column, figure.summary.mean), published(figure)
    return f"{about} {ours}, {theirs} in the paper ({difference(figure)}): {text}"

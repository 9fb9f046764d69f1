"""Plots of detectors: ROC curves, histograms of scores, and a sweep of radii."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from deepsec_jax.metrics import roc
from deepsec_jax.metrics.auc import placements
from deepsec_jax.metrics.detection_record import ordered
from deepsec_jax.tables.numbers import digits
from deepsec_jax.tables.plots import DASHES, INK, SERIES, drawing

_MOST_POINTS = 80
_BINS = 40
_TAIL = 0.002  # share of all scores beyond each end of the axis, counted in the last bin
_RIDGE = 0.26  # inches


@dataclass(frozen=True)
class Scores:
    """Scores of the images of one attack, or of clean ones.

    Attributes:
        label: of the group.
        values: one per image.
    """

    label: str
    values: np.ndarray


def roc_curves(name: str, attacked: Sequence[Scores], clean: np.ndarray, at: float) -> str:
    """Draw TPR against FPR over all thresholds, and the detector's FPR; FPR on a logarithmic axis.

    Args:
        name: unlike that of any other drawing of the page.
        attacked: one or more attacks with scores.
        clean: scores of clean images [M].
        at: FPR at the threshold.
    """
    areas = ", ".join(
        f"{each.label} {100 * placements(each.values, clean).mean():.1f} %" for each in attacked
    )
    said = f"True against false positive rate over all thresholds. Area under the curve: {areas}."
    least = 1.0 / max(len(clean), 1)

    def draw(axes: Axes) -> None:
        chance = np.geomspace(least, 1.0, 50)
        axes.plot(100 * chance, 100 * chance, color=INK, linewidth=1, linestyle=(0, (1, 2)), label="guessing")
        for index, each in enumerate(attacked):
            false, true = _corners(*roc(each.values, clean))
            axes.step(
                100 * np.maximum(false, least / 1.5), 100 * true, where="post", label=each.label, linewidth=2,
                color=SERIES[index % 8], linestyle=DASHES[index % 3],
            )  # fmt: skip
        if at > 0:
            axes.axvline(100 * at, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="threshold")
        axes.set_xscale("log")
        axes.set_xlim(100 * least / 1.5, 103)
        axes.set_ylim(0, 103)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("false positive rate, % (logarithmic)")
        axes.set_ylabel("true positive rate, %")
        _legend(axes)

    return drawing(name, said, draw, legend_rows=_legend_rows(len(attacked) + 1 + (at > 0)))


def _corners(false: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 80 points of a curve, dense where false positives are rare; the last one is exact."""
    wanted = np.concatenate(
        ([0.0], np.geomspace(max(false[false > 0].min(initial=1.0), 1e-9), 1.0, _MOST_POINTS))
    )
    chosen = np.unique(np.searchsorted(false, wanted, side="right") - 1)
    return false[chosen], true[chosen]


def ridges(name: str, groups: Sequence[Scores], threshold: float) -> str:
    """Draw a histogram of scores per group, stacked over one axis, and the threshold.

    Each has its own height; scores beyond the axis are in the last bin.

    Args:
        name: unlike that of any other drawing of the page.
        groups: from top to bottom.
        threshold: scores right of it are flagged.
    """
    pooled = np.concatenate([ordered(each.values) for each in groups] + [np.array([threshold])])
    pooled = pooled[np.isfinite(pooled)]
    low, high = np.quantile(pooled, (_TAIL, 1 - _TAIL))
    low, high = min(float(low), threshold), max(float(high), threshold)
    edge = 0.03 * (high - low) or 1.0
    low, high = low - edge, high + edge
    said = f"Distribution of scores; the threshold is {threshold:.4g}. " + " ".join(map(_in_words, groups))

    def draw(axes: Axes) -> None:
        edges = np.linspace(low, high, _BINS + 1)
        for index, each in enumerate(groups):
            base = len(groups) - 1 - index
            counts, _ = np.histogram(np.clip(ordered(each.values), low, high), bins=edges)
            heights = base + 0.9 * counts / max(counts.max(initial=0), 1)
            axes.stairs(heights, edges, baseline=base, fill=True, color=SERIES[0] if index else SERIES[1])
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_yticks([len(groups) - 1 - index + 0.3 for index in range(len(groups))])
        axes.set_yticklabels([each.label for each in groups], fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(0, len(groups) + 0.05)
        axes.set_xlim(low, high)
        axes.set_xlabel("score (right of the dashes: flagged)")
        box = axes.get_position()
        axes.set_position((0.26, box.y0, 0.71, box.height))

    return drawing(name, said, draw, extra=max(0.0, _RIDGE * len(groups) - 2.0))


def _in_words(scores: Scores) -> str:
    if not len(scores.values):
        return f"{scores.label}: none."
    low, middle, high = np.quantile(ordered(scores.values), (0.25, 0.5, 0.75), method="nearest")
    return f"{scores.label}: quartiles {low:.3g}, {middle:.3g}, {high:.3g}."


@dataclass(frozen=True)
class Line:
    """One figure at several radii.

    Attributes:
        label: of the detector.
        eps: radii.
        values: in percent; NaN if missing.
        series: index of its colour.
        dashed: whether the line is dashed.
    """

    label: str
    eps: Sequence[float]
    values: Sequence[float]
    series: int
    dashed: bool


def by_radius(name: str, what: str, lines: Sequence[Line]) -> str:
    """Draw a figure against eps.

    Args:
        name: unlike that of any other drawing of the page.
        what: the quantity, for the axis, in percent.
        lines: one or more.
    """
    told = " ".join(f"{line.label}: {_at_radii(line)}." for line in lines)

    def draw(axes: Axes) -> None:
        for line in lines:
            axes.plot(
                list(line.eps), list(line.values), label=line.label, linewidth=2, marker="o", markersize=3,
                color=SERIES[line.series % 8], linestyle=DASHES[2] if line.dashed else "-",
            )  # fmt: skip
        axes.set_ylim(0, 103)
        axes.set_xlabel("ε, L∞ radius of FGSM")
        axes.set_ylabel(what)
        _legend(axes, columns=2)

    return drawing(name, f"{what} against the radius of FGSM. {told}", draw, legend_rows=-(-len(lines) // 2))


def _at_radii(line: Line) -> str:
    points = zip(line.eps, line.values, strict=True)
    return ", ".join(f"{value:.1f} at {digits(eps)}" for eps, value in points)


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.22), ncols=columns, fontsize=11, handlelength=2.2)


def _legend_rows(entries: int) -> int:
    return -(-entries // 3)

"""Plots as inline SVG; equal data give equal bytes.

Colours are CSS variables of the page (``--ink``, ``--rule``, ``--s1`` to ``--s8``), so a plot is readable on
light and on dark background.  Texts remain texts, and every plot has a description in words.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_WIDTH, _HEIGHT = 5.0, 2.9  # inches of 72 points: a phone shows the 12 point labels at about that size
_MOST_POINTS = 100
_BINS = 20
_TICKS = 5  # drawing them takes most of a plot's time
_DECADES = 1.5  # ratio of distances that needs a logarithmic axis

# matplotlib needs colours; they are replaced by the page's variables in the finished plot.
_VARIABLES = {"#000101": "var(--ink)", "#000102": "var(--rule)"} | {
    f"#0002{index:02x}": f"var(--s{index})" for index in range(1, 9)
}
INK, _RULE, *SERIES = _VARIABLES
# Adjacent curves have different dashes, so that a covered curve remains visible.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))

_SETTINGS: Any = {
    "svg.hashsalt": "deepsec_jax", "svg.fonttype": "none", "font.size": 12, "font.family": "sans-serif",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": _RULE, "xtick.color": INK,
    "ytick.color": INK, "grid.color": _RULE, "axes.grid": True, "grid.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none",
    "axes.facecolor": "none", "legend.frameon": False, "axes.axisbelow": True, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Success of one attack as a function of the allowed distance.

    Attributes:
        label: of the attack.
        distances: of the successful images, in any order.
        n: number of candidates.
    """

    label: str
    distances: np.ndarray
    n: int


def success_distance(name: str, norm: str, curves: Sequence[Curve]) -> str:
    """Draw the share of all n with success at a distance of at most r, for each r.

    Args:
        name: unlike that of any other drawing of the page.
        norm: of the distance, e.g. ``L2``.
        curves: one or more; if their typical distances differ widely, the axis is logarithmic.
    """
    said = f"Share of all n with success within {norm} distance r. " + " ".join(map(_in_words, curves))

    def draw(axes: Axes) -> None:
        everything = [curve.distances[curve.distances > 0] for curve in curves]
        typical = [float(np.median(values)) for values in everything if len(values)]
        farthest = max((float(values.max()) for values in everything if len(values)), default=1.0)
        wide = len(typical) > 1 and np.log10(max(typical) / min(typical)) > _DECADES
        for index, curve in enumerate(curves):
            r, share = _steps(curve, farthest * 1.05)
            axes.step(
                r, share, where="post", label=curve.label, linewidth=2,
                color=SERIES[index % 8], linestyle=DASHES[index % 3],
            )  # fmt: skip
        axes.set_ylim(0, 103)
        if wide:
            axes.set_xscale("log")
            axes.set_xlim(min(float(values.min()) for values in everything if len(values)) / 1.2)
        else:
            axes.set_xlim(0, farthest * 1.05)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=_TICKS))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=_TICKS))
        axes.set_xlabel(f"{norm} distance r")
        axes.set_ylabel("success, % of n")
        if len(curves) > 1:
            axes.legend(
                loc="upper left", bbox_to_anchor=(-0.12, -0.22), ncols=3, fontsize=11, handlelength=2.2
            )

    return drawing(name, said, draw, legend_rows=-(-len(curves) // 3) if len(curves) > 1 else 0)


def distribution(name: str, what: str, values: np.ndarray, limits: tuple[float, float] | None = None) -> str:
    """Draw a histogram of values over images.

    Args:
        name: unlike that of any other drawing of the page.
        what: the quantity, for the axis.
        values: one per image.
        limits: ends of the axis; default from 0 to slightly above the largest value.
    """
    values = np.asarray(values, np.float64)
    low, high = limits or (0.0, 1.05 * float(values.max(initial=0.0)) or 1.0)
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    said = f"Distribution of {what} over {len(values)} images. {_quartiles(values)}"

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=SERIES[0], linewidth=0)  # a path, faster than bars
        axes.set_xlim(low, high)
        axes.set_ylim(0, max(1.0, 1.06 * float(counts.max())))
        axes.set_xlabel(what)
        axes.set_ylabel("images")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=_TICKS))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=_TICKS, integer=True))

    return drawing(name, said, draw)


def shares(name: str, what: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw shares in percent against a number of steps or the like.

    Args:
        name: unlike that of any other drawing of the page.
        what: the number, for the axis; logarithmic if all numbers are positive.
        curves: label -> points (number, percent), in order.
    """
    said = " ".join(
        f"{label}: {', '.join(f'{share:.1f} % at {x:g}' for x, share in points)}."
        for label, points in curves.items()
    )

    def draw(axes: Axes) -> None:
        for index, (label, points) in enumerate(curves.items()):
            axes.plot(
                [x for x, _ in points], [share for _, share in points], label=label, linewidth=2,
                color=SERIES[index % 8], linestyle=DASHES[index % 3], marker="o", markersize=4,
            )  # fmt: skip
        if all(x > 0 for points in curves.values() for x, _ in points):
            axes.set_xscale("log")
        axes.set_ylim(0, 103)
        axes.set_xlabel(what)
        axes.set_ylabel("% of n")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.22), ncols=3, fontsize=11, handlelength=2.2)

    return drawing(name, f"Share of n against {what}. {said}", draw, legend_rows=-(-len(curves) // 3))


def accuracy_by_epoch(name: str, history: Sequence[Mapping[str, Any]], *, classes: int, kept: int) -> str:
    """Draw the accuracies of every epoch of a training, and the accuracy of guessing.

    Args:
        name: unlike that of any other drawing of the page.
        history: per epoch ``epoch``, ``loss``, ``validation``, and other recorded shares.
        classes: number of classes.
        kept: the kept epoch, from 1.
    """
    epochs = [int(entry["epoch"]) + 1 for entry in history]
    curves = {
        _words(key, history[0]): [100 * float(entry[key]) for entry in history]
        for key in history[0]
        if key not in ("epoch", "loss")
    }
    last = ", ".join(f"{label} {values[-1]:.1f} %" for label, values in curves.items())
    said = f"Accuracy over {len(epochs)} epochs. In the last one: {last}. Epoch {kept} was kept."

    def draw(axes: Axes) -> None:
        for index, (label, values) in enumerate(curves.items()):
            axes.plot(
                epochs, values, label=label, linewidth=2, color=SERIES[index % 8],
                linestyle=DASHES[index % 3], marker="o", markersize=4,
            )  # fmt: skip
        axes.axhline(100 / classes, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
        axes.axvline(kept, color=INK, linewidth=1, linestyle=(0, (1, 2)), label="kept")
        axes.set_ylim(0, 103)
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(-0.12, -0.22), ncols=3, fontsize=11, handlelength=2.2)

    return drawing(name, said, draw, legend_rows=-(-(len(curves) + 2) // 3))


def _words(key: str, entry: Mapping[str, Any]) -> str:
    """Return the name of a curve; if clean accuracy is recorded, validation is under attack."""
    if key == "validation":
        return "under attack" if "clean" in entry else "clean"
    return key.replace("_", " ")


def loss_by_epoch(name: str, history: Sequence[Mapping[str, Any]]) -> str:
    """Draw the mean training loss of every epoch; arguments as in :func:`accuracy_by_epoch`."""
    epochs = [int(entry["epoch"]) + 1 for entry in history]
    losses = [float(entry["loss"]) for entry in history]
    said = f"Training loss over {len(epochs)} epochs, from {losses[0]:.3g} to {losses[-1]:.3g}."

    def draw(axes: Axes) -> None:
        axes.plot(epochs, losses, linewidth=2, color=SERIES[0], marker="o", markersize=4)
        axes.set_ylim(0, 1.06 * max(losses) or 1.0)
        axes.set_xlabel("epoch")
        axes.set_ylabel("mean loss")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))

    return drawing(name, said, draw)


def _steps(curve: Curve, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return at most a hundred corners of the curve in percent; the last one is exact."""
    distances = np.sort(np.asarray(curve.distances, np.float64))
    kept = np.unique(np.linspace(0, len(distances) - 1, min(_MOST_POINTS, len(distances))).astype(int))
    share = 100 * (kept + 1) / max(curve.n, 1)
    top = share[-1] if len(share) else 0.0
    return np.concatenate(([0.0], distances[kept], [end])), np.concatenate(([0.0], share, [top]))


def _in_words(curve: Curve) -> str:
    reached = len(curve.distances) / curve.n if curve.n else 0.0
    levels = [level for level in (0.5, 0.9, 1.0) if level <= reached]
    distances = np.sort(np.asarray(curve.distances, np.float64))
    points = [f"{100 * p:.0f} % at {distances[int(np.ceil(p * curve.n)) - 1]:.3g}" for p in levels]
    return f"{curve.label}: {', '.join([*points, f'{100 * reached:.1f} % of n = {curve.n} in all'])}."


def _quartiles(values: np.ndarray) -> str:
    if not len(values):
        return "There is none."
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"Quartiles {low:.3g}, {middle:.3g}, {high:.3g}."


def drawing(
    name: str, said: str, draw: Callable[[Axes], None], legend_rows: int = 0, *, extra: float = 0.0
) -> str:
    """Return a plot as inline SVG.

    Args:
        name: unlike that of any other drawing of the page.
        said: description in words.
        draw: function that plots into the axes, in colours of :data:`SERIES` and :data:`INK`.
        legend_rows: lines of a legend under the axes.
        extra: additional height in inches.
    """
    height = _HEIGHT + extra + 0.24 * legend_rows
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # independent of the user's settings
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(_WIDTH, height))
        low = (0.56 + 0.24 * legend_rows) / height
        draw(figure.add_axes((0.135, low, 0.825, 0.96 - low)))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), name, said, f"0 0 {72 * _WIDTH:g} {72 * height:g}")


def _for_page(svg: str, name: str, said: str, box: str) -> str:
    """Extract a plot from its SVG file: without prologue, with unique ids, the page's colours and font."""
    body = svg[svg.index("<svg") :].rstrip()
    body = re.sub(r"<(metadata|style)[ >].*?</\1>", "", body[body.index(">") + 1 :], flags=re.DOTALL)
    body = body.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"font-family: [^;\"]*; ", "", body)
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    return f'<svg class="chart" role="img" aria-label="{html.escape(said)}" viewBox="{box}">{body}'

"""Tables to SVG: score and perplexity by length, needle heatmaps, rescale factors.

Each function takes what `reports.tables` computed and gives an `<svg>` element; nothing is computed here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.types import JSON
from reports.depths import DepthGrid
from reports.svg import EMPTY, INK, MUTED, SERIES, plain, render, settings
from reports.tables import Series
from reports.text import DASH

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)))
_WIDTH = 6.4  # inches; 72 SVG units each


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a method is told apart: by colour, and without colour by marker and dash."""

    colour: str
    marker: str
    dash: Any


def looks(methods: Sequence[str], base: str) -> dict[str, Look]:
    """A look for each method; the base is ink, dashed."""
    found = {base: Look(colour=INK, marker="o", dash=(0, (2, 1.5)))}
    for i, method in enumerate(method for method in methods if method != base):
        marker, dash = _MARKERS[(i + 1) % len(_MARKERS)], _DASHES[(i + i // len(SERIES)) % len(_DASHES)]
        found[method] = Look(colour=SERIES[i % len(SERIES)], marker=marker, dash=dash)
    return found


def by_length(series: Sequence[Series], styles: Mapping[str, Look], *, window: int, name: str) -> str:
    """A group's scores (perplexity, where the group is likelihood) by length, a line a method with intervals."""
    perplexity = series[0].kind == "likelihood"
    unit = "Perplexity" if perplexity else "Score, %"
    label = (
        f"{unit} by length in {series[0].group} for {', '.join(s.method for s in series)}; the numbers are in the table"
    )
    with settings():
        figure, axes = _figure(len(series))
        lengths = sorted({point.seq_len for s in series for point in s.points})
        gap = min(np.diff(np.log2(lengths)), default=1.0)
        handles = [
            _line(axes, s, styles[s.method], shift=gap * 0.5 * (i - (len(series) - 1) / 2) / max(1, len(series)))
            for i, s in enumerate(series)
        ]
        _length_axis(axes, lengths, window)
        bar = series[0].threshold.value
        if bar:
            level = 1 / bar if perplexity else 100 * bar
            handles.append(axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (1, 1.5))))
        if perplexity:
            _perplexity_axis(axes)
        else:
            axes.set_ylim(-4, 104)
        axes.set_ylabel(unit)
        _legend(figure, handles, [s.method for s in series] + ["threshold"] * bool(bar))
        return render(figure, name=name, label=label)


def heatmap(grid: DepthGrid, *, name: str) -> str:
    """A method's needle scores by length and depth, the number in each cell."""
    label = f"Needle scores of {grid.method} by length and depth; the numbers are in the table"
    with settings():
        rows, columns = len(grid.depths), len(grid.lengths)
        figure = Figure(figsize=(1.1 + 0.68 * columns, 1.1 + 0.31 * rows), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["cividis"]
        for y, cells in enumerate(grid.cells):
            for x, cell in enumerate(cells):
                face = EMPTY if cell.score is None else matplotlib.colors.to_hex(colours(cell.score))
                axes.add_patch(matplotlib.patches.Rectangle((x - 0.49, y - 0.48), 0.98, 0.96, facecolor=face))
                text = DASH if cell.score is None else f"{100 * cell.score:.0f}"
                ink = INK if cell.score is None else "#000000" if cell.score > 0.47 else "#ffffff"
                axes.text(x, y, text, ha="center", va="center_baseline", color=ink)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
        axes.set_xticks(range(columns), [str(length) for length in grid.lengths])
        axes.set_yticks(range(rows), list(grid.depths))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="Length, tokens", ylabel="Depth, %")
        axes.set_title(plain(grid.method, 34))
        return render(figure, name=name, label=label)


def colour_scale(*, name: str) -> str:
    """The scale all heatmaps share."""
    with settings():
        figure = Figure(figsize=(3.4, 0.7), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["cividis"]
        for i in range(50):
            face = matplotlib.colors.to_hex(colours((i + 0.5) / 50))
            axes.add_patch(matplotlib.patches.Rectangle((2 * i, 0), 2.1, 1, facecolor=face, linewidth=0))
        axes.set(xlim=(0, 100), ylim=(0, 1), xlabel="Score, %")
        axes.yaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        return render(figure, name=name, label="Colour scale of the heatmaps: dark blue 0 %, yellow 100 %")


def rescale_factors(
    factors: Sequence[Mapping[str, JSON]],
    styles: Mapping[str, Look],
    *,
    theoretical_critical_pair: int | None,
    extension_ratio: float,
    name: str,
) -> str:
    """Original over new frequency for each rotary pair, a line a method; an infinite factor is a mark at the top."""
    label = f"Rescale factors by rotary pair for {', '.join(f['method'] for f in factors)}"
    with settings():
        figure, axes = _figure(len(factors))
        finite = [x for f in factors for x in f["rescale_factors"] if x is not None] + [extension_ratio]
        top = 1.3 * max(finite)
        handles = []
        for f in factors:
            look, values = styles[f["method"]], f["rescale_factors"]
            pairs = np.arange(len(values))
            line_P = np.array([np.nan if x is None else x for x in values])
            style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
            handles += axes.plot(pairs, line_P, linestyle=look.dash, linewidth=1.5, markevery=4, **style)
            infinite = pairs[np.isnan(line_P)]
            if len(infinite):
                axes.plot(infinite, np.full(len(infinite), top), linestyle="none", clip_on=False, **style)
        axes.axhline(extension_ratio, color=MUTED, linewidth=1, linestyle=(0, (1, 1.5)))
        text = f"ratio {extension_ratio:.4g}"
        axes.annotate(text, (0, extension_ratio), (6, 4), textcoords="offset points", color=MUTED, fontsize=10.5)
        if theoretical_critical_pair is not None:
            axes.axvline(theoretical_critical_pair, color=MUTED, linewidth=1, linestyle=(0, (4, 2)))
            _above(axes, theoretical_critical_pair, f"theoretical critical pair {theoretical_critical_pair}")
        _log_axis(axes.yaxis, min(finite), top)
        axes.set(xlabel="Rotary pair, highest frequency first", ylabel="Rescale factor")
        axes.grid(axis="y")
        _legend(figure, handles, [f["method"] for f in factors])
        return render(figure, name=name, label=label)


def _figure(n_lines: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, 3.4 + 0.23 * math.ceil((n_lines + 1) / 2)), layout="constrained")
    return figure, figure.add_subplot()


def _line(axes: Axes, series: Series, look: Look, *, shift: float) -> Any:
    """A method's points with intervals, moved aside a little so that equal scores can be seen beside each other."""
    x, y, low, high = [], [], [], []
    for point in series.points:
        e = point.estimate
        ends = (e.low, e.high) if e.low is not None and e.high is not None else (e.value, e.value)
        if series.kind == "likelihood":
            values = [1 / v if v else math.nan for v in (e.value, ends[1], ends[0])]
        else:
            values = [math.nan if v is None else 100 * v for v in (e.value, *ends)]
        x.append(math.log2(point.seq_len) + shift)
        y.append(values[0])
        low.append(max(0.0, values[0] - values[1]))
        high.append(max(0.0, values[2] - values[0]))
    axes.errorbar(x, y, yerr=[low, high], fmt="none", ecolor=look.colour, elinewidth=1.1, capsize=2)
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": look.dash}
    return axes.plot(x, y, linewidth=1.5, markersize=5, **style)[0]


def _length_axis(axes: Axes, lengths: Sequence[int], window: int) -> None:
    axes.set_xticks([math.log2(length) for length in lengths], [str(length) for length in lengths])
    axes.set_xlabel("Length, tokens")
    axes.grid(axis="y")
    if lengths and lengths[0] <= window <= lengths[-1]:
        axes.axvline(math.log2(window), color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        _above(axes, math.log2(window), f"original window {window}")


def _above(axes: Axes, x: float, text: str) -> None:
    axes.text(
        x, 1.005, text, transform=axes.get_xaxis_transform(), color=MUTED, fontsize=10.5, ha="center", va="bottom"
    )


def _perplexity_axis(axes: Axes) -> None:
    low, high = axes.get_ylim()
    shown = [v for line in axes.lines for v in np.asarray(line.get_ydata(), float) if v > 0]
    low = max(low, 0.8 * min(shown, default=1.0))
    if high / low > 5:
        _log_axis(axes.yaxis, low, high)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _log_axis(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers; ticks at 1, 2, 5 of each decade while they fit."""
    axis.axes.set_yscale("log", base=2 if high / low < 64 else 10)
    axis.axes.set_ylim(0.92 * low, high)
    if high / low >= 64:
        axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if high / low < 1e4 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    shown = [plain(name) for name in names]
    columns = 1 if max(map(len, shown)) > 26 else 2
    # A leading underscore would keep a name out of the legend.
    safe = ["\u200b" + name if name.startswith("_") else name for name in shown]
    figure.legend(handles, safe, loc="outside lower left", ncols=columns, fontsize=11, handlelength=3)

"""Tables to figures: scores by length, rescale factors, paired differences.

Each function takes what was computed elsewhere and gives a `Drawing`; nothing is computed here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.types import JSON
from reports.svg import INK, MUTED, SERIES, Drawing, plain, settings
from reports.tables import Series
from reports.text import length

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)))
_WIDTH = 6.4  # inches; 72 SVG units each
_DOTS, _LONG_DASHES = (0, (1, 1.5)), (0, (4, 2))  # a threshold; the original window


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a method is told apart: by colour, and without colour by marker and dash."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values by length with their intervals, as drawn; NaN where there is none."""

    title: str
    lengths: Sequence[int]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def looks(methods: Sequence[str], base: str) -> dict[str, Look]:
    """A look for each method; the base is ink, dashed."""
    found = {base: Look(colour=INK, marker="o", dash=(0, (2, 1.5)))}
    for i, method in enumerate(method for method in methods if method != base):
        marker, dash = _MARKERS[(i + 1) % len(_MARKERS)], _DASHES[(i + i // len(SERIES)) % len(_DASHES)]
        found[method] = Look(colour=SERIES[i % len(SERIES)], marker=marker, dash=dash)
    return found


def curve(series: Series) -> Curve:
    """A method's scores in percent, or perplexities where the group is likelihood."""
    columns: tuple[list[float], ...] = ([], [], [])  # values and both ends
    for point in series.points:
        e = point.estimate
        ends = (e.low, e.high) if e.low is not None and e.high is not None else (e.value, e.value)
        if series.kind == "likelihood":
            drawn = [1 / v if v else math.nan for v in (e.value, ends[1], ends[0])]
        else:
            drawn = [math.nan if v is None else 100 * v for v in (e.value, *ends)]
        for column, number in zip(columns, drawn, strict=True):
            column.append(number)
    lengths = [point.seq_len for point in series.points]
    return Curve(title=series.method, lengths=lengths, values=columns[0], low=columns[1], high=columns[2])


def by_length(series: Sequence[Series], *, base: str, window: int, name: str) -> Drawing:
    """A group's scores (perplexity, where it is likelihood) by length: a panel a method, the base in each."""
    perplexity = series[0].kind == "likelihood"
    bar = series[0].threshold.value
    unit = "Perplexity" if perplexity else "Score, %"
    return panels(
        [curve(s) for s in series if s.method != base],
        next((curve(s) for s in series if s.method == base), None),
        window=window,
        threshold=None if not bar else 1 / bar if perplexity else 100 * bar,
        unit=unit,
        name=name,
        label=f"{unit} by length in {series[0].group}: a panel for each of {', '.join(s.method for s in series)}; "
        "the numbers are in the table",
    )


def panels(
    curves: Sequence[Curve],
    base: Curve | None,
    *,
    window: int | None,
    threshold: float | None,
    unit: str,
    name: str,
    label: str,
) -> Drawing:
    """Small multiples on the same axes: each curve with its interval as a ribbon, the base dashed behind it."""
    shown = list(curves) if curves or base is None else [base]
    reference = base if curves else None
    with settings():
        columns = min(3, len(shown))
        rows = math.ceil(len(shown) / columns)
        figure = Figure(figsize=(0.5 + 2.45 * columns, 1.2 + 1.65 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        lengths = sorted({n for c in [*shown, *([base] if base else [])] for n in c.lengths})
        handles: dict[str, Any] = {}
        for axes, drawn in zip(grid.flat, shown, strict=False):
            axes.set_title(plain(drawn.title, 30), fontsize=10)
            if reference is not None:
                handles[plain(reference.title)] = _line(axes, reference, INK, marker="", dash=(0, (2, 1.5)))
            known = any(low < high for low, high in zip(drawn.low, drawn.high, strict=True))
            handles["the panel's method" + ", with its interval" * known] = _ribbon(axes, drawn)
            if threshold is not None:
                handles["threshold"] = axes.axhline(threshold, color=MUTED, linewidth=1, linestyle=_DOTS)
            if window is not None and lengths[0] <= window <= lengths[-1]:
                mark = axes.axvline(math.log2(window), color=MUTED, linewidth=1, linestyle=_LONG_DASHES, zorder=0)
                handles[f"original window, {window}"] = mark
            axes.grid(axis="y")
        for axes, above in zip(list(grid.flat)[len(shown) :], list(grid.flat)[len(shown) - columns :], strict=False):
            axes.set_visible(False)
            above.tick_params(labelbottom=True)  # the lowest panel of its column
        _shared_axes(grid, lengths, unit, [*shown, *([reference] if reference else [])])
        figure.supxlabel("Length, tokens", fontsize=10.5, color=INK)
        legend(figure, list(handles.values()), list(handles), "upper")
        return Drawing(figure=figure, name=name, label=label)


def rescale_factors(
    factors: Sequence[Mapping[str, JSON]],
    styles: Mapping[str, Look],
    *,
    theoretical_critical_pair: int | None,
    extension_ratio: float,
    name: str,
    pairs_marked: Mapping[str, int] | None = None,
) -> Drawing:
    """Original over new frequency for each rotary pair, a line a method; an infinite factor is a mark at the top.

    pairs_marked: what stands in the legend -> the pair of a vertical line.
    """
    label = f"Rescale factors by rotary pair for {', '.join(f['method'] for f in factors)}"
    with settings():
        marked = pairs_marked or {}
        size = (_WIDTH, 3.4 + 0.23 * math.ceil((len(factors) + len(marked) + 1) / 2))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
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
        axes.axhline(extension_ratio, color=MUTED, linewidth=1, linestyle=_DOTS)
        text = f"ratio {extension_ratio:.4g}"
        axes.annotate(text, (0, extension_ratio), (6, 4), textcoords="offset points", color=MUTED, fontsize=10.5)
        if theoretical_critical_pair is not None:
            axes.axvline(theoretical_critical_pair, color=MUTED, linewidth=1, linestyle=_LONG_DASHES)
            _above(axes, theoretical_critical_pair, f"theoretical critical pair {theoretical_critical_pair}")
        _log_axis(axes.yaxis, min(finite), top)
        axes.set(xlabel="Rotary pair, highest frequency first", ylabel="Rescale factor")
        axes.grid(axis="y")
        marks = [
            axes.axvline(pair, color=SERIES[-1 - i], linewidth=1.2, linestyle=_DASHES[2 + i])
            for i, pair in enumerate(marked.values())
        ]
        legend(figure, handles + marks, [f["method"] for f in factors] + list(marked))
        return Drawing(figure=figure, name=name, label=label)


def forest(groups: Mapping[str, Sequence[Mapping[str, Any]]], *, base: str, name: str) -> Drawing:
    """Differences with their intervals: a panel a group, a row a method; filled where 0 is outside the interval."""
    methods = list(dict.fromkeys(row["method"] for rows in groups.values() for row in rows))
    label = f"Differences from {base} with intervals, for {', '.join(methods)}; the numbers are in the table"
    with settings():
        columns = min(3, len(groups))
        n_rows = math.ceil(len(groups) / columns)
        size = (1.7 + 1.9 * columns, 0.5 + n_rows * (0.65 + 0.24 * len(methods)))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(n_rows, columns, sharey=True, squeeze=False)
        for axes, (title, rows) in zip(grid.flat, groups.items(), strict=False):
            axes.axvline(0, color=INK, linewidth=1)
            for row in rows:
                _interval(axes, methods.index(row["method"]), row)
            axes.set_title(plain(title, 24), fontsize=10.5)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_yticks(range(len(methods)), [plain(method, 24) for method in methods], fontsize=10)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x")
        for axes in list(grid.flat)[len(groups) :]:
            axes.set_visible(False)
        figure.supxlabel(plain(f"Difference from {base}, points", 60), fontsize=10.5, color=INK)
        return Drawing(figure=figure, name=name, label=label)


def _interval(axes: Axes, y: int, row: Mapping[str, Any]) -> None:
    value, low, high = (None if row[end] is None else 100 * row[end] for end in ("difference", "low", "high"))
    if value is None:
        return
    decided = low is not None and high is not None and not low <= 0 <= high
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=SERIES[0], linewidth=1.6)
    face = SERIES[0] if decided else "none"
    axes.plot([value], [y], marker="o", markersize=5.5, color=SERIES[0], markerfacecolor=face, linestyle="none")


def _ribbon(axes: Axes, drawn: Curve) -> Any:
    x = [math.log2(n) for n in drawn.lengths]
    if any(low < high for low, high in zip(drawn.low, drawn.high, strict=True)):
        axes.fill_between(x, drawn.low, drawn.high, color=SERIES[0], alpha=0.22, linewidth=0)
    return _line(axes, drawn, SERIES[0], marker="o", dash="-")


def _line(axes: Axes, drawn: Curve, colour: str, *, marker: str, dash: Any) -> Any:
    x = [math.log2(n) for n in drawn.lengths]
    return axes.plot(x, drawn.values, color=colour, marker=marker, markersize=4, linewidth=1.5, linestyle=dash)[0]


def _shared_axes(grid: Any, lengths: Sequence[int], unit: str, curves: Sequence[Curve]) -> None:
    first: Axes = grid.flat[0]
    first.set_xticks([math.log2(n) for n in lengths], [length(n) for n in lengths])
    for row in grid:
        row[0].set_ylabel(unit, fontsize=10.5)
    for axes in grid.flat:
        axes.tick_params(labelsize=9.5)
        if len(lengths) > 6:
            axes.tick_params(axis="x", labelrotation=90)
    if unit.startswith("Score"):
        first.set_ylim(-4, 104)
        return
    shown = [v for c in curves for v in c.values if v > 0]
    low, high = min(shown, default=1.0), max(shown, default=2.0)
    if high / low > 5:
        _log_axis(first.yaxis, low, 1.15 * high)
    else:
        first.yaxis.set_major_locator(MaxNLocator(5))


def _above(axes: Axes, x: float, text: str) -> None:
    axes.text(
        x, 1.005, text, transform=axes.get_xaxis_transform(), color=MUTED, fontsize=10.5, ha="center", va="bottom"
    )


def _log_axis(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers; ticks at 1, 2, 5 of each decade while they fit."""
    axis.axes.set_yscale("log", base=2 if high / low < 64 else 10)
    axis.axes.set_ylim(0.92 * low, high)
    if high / low >= 64:
        axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if high / low < 1e4 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], place: str = "lower") -> None:
    """A legend outside of the axes, in one column where names are long; none where there is nothing to name."""
    if not names:
        return
    shown = [plain(name) for name in names]
    columns = 1 if max(map(len, shown)) > 5 * figure.get_figwidth() else 2
    # A leading underscore would keep a name out of the legend.
    safe = ["\u200b" + name if name.startswith("_") else name for name in shown]
    where: Any = f"outside {place} left"
    figure.legend(handles, safe, loc=where, ncols=columns, fontsize=10.5, handlelength=3)

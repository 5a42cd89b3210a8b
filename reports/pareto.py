"""Effective length against what it costs: points with numbers, the row's in the table beside them."""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from reports.standings import Standing
from reports.svg import INK, MUTED, Drawing, settings
from reports.text import length

_MOST_NAMED = 6  # rows at one point
_MOST_NUMBERED = 60  # more than these would lie over each other


def pareto(rows: Sequence[Standing], *, cost: str, name: str) -> str:
    """An `<svg>`: effective length by `cost`, `retention` or `seconds`. Filled, joined points are beaten by no other.

    Empty where no row has both.
    """
    value: Callable[[Standing], float | None] = lambda row: getattr(row, cost)  # noqa: E731
    shown = [(i, row, x) for i, row in enumerate(rows, 1) if (x := value(row)) is not None]
    if not shown:
        return ""
    title = "retention of short context" if cost == "retention" else "seconds a sample"
    with settings():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        places: dict[tuple[float, float], list[int]] = {}
        for i, row, x in shown:
            places.setdefault((_x(x, cost), _height(row)), []).append(i)
        best = {(_x(x, cost), _height(row)) for _, row, x in shown if cost in row.unbeaten}
        for place, numbers in places.items():
            colour, face = (INK, INK) if place in best else (MUTED, "none")
            axes.plot(*place, marker="o", markersize=7, color=colour, markerfacecolor=face)
            if len(places) <= _MOST_NUMBERED or place in best:
                axes.annotate(_numbered(numbers), place, (6, 4), textcoords="offset points", fontsize=10.5, color=INK)
        front = sorted(best)
        if front:
            axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        _axes(axes, rows, cost)
        label = f"Effective length against {title}, a point a row; the numbers are in the table"
        return Drawing(figure=figure, name=name, label=label).svg()


def _numbered(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:_MOST_NAMED]))
    return shown if len(rows) <= _MOST_NAMED else f"{shown} and {len(rows) - _MOST_NAMED} more"


def _x(value: float, cost: str) -> float:
    return 100 * value if cost == "retention" else max(value, 1e-6)


def _height(row: Standing) -> float:
    """A row that does not even reach its shortest tested length stands one octave below it."""
    return math.log2(row.effective_length or row.shortest / 2)


def _axes(axes: Axes, rows: Sequence[Standing], cost: str) -> None:
    reached = sorted({row.effective_length for row in rows if row.effective_length})
    none = sorted({row.shortest for row in rows if row.effective_length is None})
    ticks = {math.log2(n / 2): f"<{length(n)}" for n in none} | {math.log2(n): length(n) for n in reached}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylabel("Effective length, tokens")
    axes.grid(axis="y")
    axes.margins(0.12)
    if cost == "retention":
        axes.set_xlabel("Retention of short context, %")
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.set_xlabel("Seconds a sample, logarithmic")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())

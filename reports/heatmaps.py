"""Scores as colours: one perceptually even scale for every map of a report, in the page and in its figures."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from reports.depths import DepthGrid
from reports.svg import EMPTY, INK, Drawing, plain, settings
from reports.text import DASH

STEPS = 21  # colours of the scale: a score's class in the page is `h0` to `h20`
_DARK_BELOW = 0.47  # white text below, black from here: at least 4.5 : 1 on every step


def step(score: float) -> int:
    """The scale's step for a score in [0, 1]."""
    return round(score * (STEPS - 1))


def colours() -> list[tuple[str, str]]:
    """Background and text colour of each step. cividis reads the same with and without colour blindness."""
    scale = matplotlib.colormaps["cividis"]
    places = [i / (STEPS - 1) for i in range(STEPS)]
    return [(matplotlib.colors.to_hex(scale(x)), "#ffffff" if x < _DARK_BELOW else "#000000") for x in places]


def heatmap(grid: DepthGrid, *, name: str) -> Drawing:
    """A method's needle scores by length and depth, the number and its interval in each cell."""
    label = f"Needle scores of {grid.method} by length and depth"
    rows: list[list[tuple[str, int | None]]] = []
    for cells in grid.cells:
        texts = [
            DASH
            if c.score is None or c.interval is None
            else f"{100 * c.score:.0f}\n{100 * c.interval.low:.0f} to {100 * c.interval.high:.0f}"
            for c in cells
        ]
        rows.append([(t, None if c.score is None else step(c.score)) for t, c in zip(texts, cells, strict=True)])
    return drawn_map(
        rows,
        rows=list(grid.depths),
        columns=[str(n) for n in grid.lengths],
        labels=("Length, tokens", "Depth, %"),
        title=grid.method,
        name=name,
        label=label,
    )


def score_map(scores: Sequence[Sequence[float | None]], **labels: Any) -> Drawing:
    """A table of scores in [0, 1] as a map, each in percent; `labels` as `drawn_map` takes them."""
    cells = [[(DASH, None) if x is None else (f"{100 * x:.0f}", step(x)) for x in row] for row in scores]
    return drawn_map(cells, **labels)


def drawn_map(
    cells: Sequence[Sequence[tuple[str, int | None]]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
    title: str,
    name: str,
    label: str,
) -> Drawing:
    """Any table of (text, step of the scale) as a map; None has no colour."""
    palette = colours()
    with settings():
        widest = max((len(row) for row in rows), default=1)
        size = (1.0 + 0.075 * widest + 0.74 * len(columns), 1.1 + 0.4 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for y, row in enumerate(cells):
            for x, (text, at) in enumerate(row):
                face, ink = (EMPTY, INK) if at is None else palette[at]
                axes.add_patch(matplotlib.patches.Rectangle((x - 0.49, y - 0.48), 0.98, 0.96, facecolor=face))
                axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=8.5, linespacing=1.1)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(range(len(columns)), [plain(column, 16) for column in columns])
        axes.set_yticks(range(len(rows)), [plain(row, 32) for row in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_title(plain(title, 44))
        return Drawing(figure=figure, name=name, label=label)

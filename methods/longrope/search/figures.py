"""The figures of a search: loss against budget, every candidate, the factors. Nothing is chosen here."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harness.types import JSON
from methods.longrope.search.outcome import SearchOutcome, Tried
from methods.longrope.search.result import finite
from reports import figures
from reports.svg import INK, MUTED, SERIES, Drawing, plain, settings

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (1.5, 1.5)))
_WIDTH, _HEIGHT = 6.4, 3.9  # inches
_FAR = 5.0  # times the median loss
_WIDE = 1e4  # of losses, highest over lowest: beyond, ticks at powers of ten alone
_LOSS = "Loss, nats an answer token"
_SPENT = "Spent, forward-equivalents"
_MOST_ORIGINS = 6  # colours that can be told apart; the rest are drawn together


def loss_by_budget(outcome: SearchOutcome) -> Drawing:
    """The best candidate's loss while the budget was spent: what the search saw, and what test documents say."""
    label = "Loss of the best candidate by forward-equivalents spent, with the closed forms as levels"
    with settings():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        handles: dict[str, Any] = {}
        seen = [(p.forward_equivalents, p.search_loss) for p in outcome.curve if math.isfinite(p.search_loss)]
        tested = [(p.forward_equivalents, loss) for p in outcome.curve if (loss := finite(p.test_loss)) is not None]
        if seen:
            x, y = zip(*[*seen, (max(outcome.spent, seen[-1][0]), seen[-1][1])], strict=True)
            style: dict[str, Any] = {"color": SERIES[0], "linewidth": 1.5, "drawstyle": "steps-post"}
            (handles["best by the documents of the search"],) = axes.plot(x, y, **style)
        if tested:
            x, y = zip(*tested, strict=True)
            (handles["the same on test documents"],) = axes.plot(
                x, y, color=SERIES[1], marker="o", markersize=5, linewidth=1, linestyle=(0, (4, 2))
            )
        levels = _levels(outcome)
        for i, (name, loss) in enumerate(levels.items()):
            line = axes.axhline(loss, color=INK, linewidth=1.2, linestyle=_DASHES[i])
            handles[f"{name} on test documents, {loss:.3g}"] = line
        _loss_axis(axes, [loss for _, loss in seen + tested] + list(levels.values()))
        axes.set(xlabel=_SPENT, ylabel=_LOSS)
        figures.legend(figure, list(handles.values()), list(handles))
        return Drawing(figure=figure, name="figure-budget", label=label)


def candidates(outcome: SearchOutcome) -> Drawing:
    """Every measurement by what was spent when it was there, coloured by where the candidate comes from."""
    shown = [t for t in outcome.tried if t.measure != "short_loss"]
    groups = by_origin(shown)
    known = [t.loss for t in shown if math.isfinite(t.loss)]
    # What lies far above the others would press them together; it is drawn at the edge, as is what has no finite loss.
    edge = min(1.25 * max(known, default=1.0), _FAR * statistics.median(known or [1.0]))
    label = f"Loss of {len(shown)} measurements by forward-equivalents spent, for {', '.join(groups)}"
    with settings():
        figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.12 * len(groups)), layout="constrained")
        axes = figure.add_subplot()
        handles: dict[str, Any] = {}
        for i, (origin, found) in enumerate(groups.items()):
            style: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "marker": _MARKERS[i % len(_MARKERS)]}
            for full in (True, False):
                points = [t for t in found if (t.draw.seq_len == outcome.facts.target_length) == full]
                name = origin if full else f"{origin}, shorter documents"
                if points:
                    x = [t.forward_equivalents for t in points]
                    y = [min(t.loss, edge) if math.isfinite(t.loss) else edge for t in points]
                    face = style["color"] if full else "none"
                    style |= {"linestyle": "none", "markersize": 4.5, "markerfacecolor": face, "alpha": 0.8}
                    (handles[name],) = axes.plot(x, y, **style)
        if len(known) < len(shown) or max(known, default=0.0) > edge:
            axes.axhline(edge, color=MUTED, linewidth=1, linestyle=_DASHES[1])
            axes.annotate("above, or no finite loss", (0, edge), (4, 4), xycoords=axes.get_yaxis_transform(),
                          textcoords="offset points", color=MUTED, fontsize=10.5)  # fmt: skip
        _loss_axis(axes, [*(loss for loss in known if loss <= edge), 1.1 * edge])
        axes.set(xlabel=_SPENT, ylabel=_LOSS)
        figures.legend(figure, list(handles.values()), list(handles))
        return Drawing(figure=figure, name="figure-candidates", label=label)


def factors(
    rows: Sequence[Mapping[str, JSON]], *, ratio: float, theoretical: int, marked: Mapping[str, int]
) -> Drawing:
    """The found factors beside those of the closed forms and of published lists."""
    names = [str(row["method"]) for row in rows]
    found = figures.Look(colour=INK, marker="o", dash="-")
    return figures.rescale_factors(
        rows,
        {**figures.looks(names[1:], ""), names[0]: found},
        theoretical_critical_pair=theoretical,
        extension_ratio=ratio,
        name="figure-factors",
        pairs_marked=marked,
    )


def by_origin(tried: Sequence[Tried]) -> dict[str, list[Tried]]:
    """Measurements by the first word of their candidate's origin; the rarest together as `others`."""
    groups: dict[str, list[Tried]] = {}
    for one in tried:
        word = plain(re.split(r"[\s(,]", one.candidate.origin.strip())[0] or "unnamed", 24)
        groups.setdefault(word, []).append(one)
    if len(groups) <= _MOST_ORIGINS:
        return groups
    common = sorted(groups, key=lambda name: -len(groups[name]))[: _MOST_ORIGINS - 1]
    kept = {name: found for name, found in groups.items() if name in common}
    others = [one for name, found in groups.items() if name not in common for one in found]
    return kept | {"others": others}


def _levels(outcome: SearchOutcome) -> dict[str, float]:
    """YaRN's loss, and the lowest other closed form's."""
    known = {name: j.test_loss for name, j in outcome.references.items() if math.isfinite(j.test_loss)}
    lowest = min(known, key=lambda name: known[name], default=None)
    wanted = [name for name in ("yarn", lowest) if name in known]
    return {name: known[name] for name in dict.fromkeys(wanted) if name is not None}


def _loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    low, high = min(losses, default=1.0), max(losses, default=2.0)
    if low > 0 and high / low > 3:
        axes.set_yscale("log")
        axes.set_ylim(0.92 * low, 1.15 * high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < _WIDE else (1.0,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")

"""A paper's own numbers as a page and as text: no run is needed.

`run_bench.py report --published NAME` prints what follows from the paper's tables: retention, effective lengths,
averages that do not fit; the page has its tables and figures in the papers' layout besides.
"""

import math
from collections.abc import Mapping
from typing import Any

from harness.types import JSON
from reports import figures, heatmaps, published
from reports.exports import Table
from reports.figures import Curve
from reports.pages import page
from reports.published import Published, PublishedTable
from reports.svg import Drawing
from reports.text import length, percent

_FACTORS = {"longrope2": ("llama3-8b", "llama3-8b-128k")}  # paper -> a model, and the factors published for it
_MOST_CURVES = 12


def render_published(name: str) -> str:
    """The page of a paper's numbers."""
    paper = published.load(name)
    view: dict[str, Any] = {
        "title": f"{paper.title}: published numbers",
        "paper": paper,
        "summary": published.summary(name),
        "tables": [_part(table) for table in paper.tables.values()],
        "figures": published_figures(name),
        "length": length,
    }
    return page("published.html.j2", **view)


def published_text(name: str) -> str:
    """What a paper's numbers say, for a terminal."""
    found = published.summary(name)
    lines = [f"{found['title']}", f"{found['source']}", ""]
    if found["retention"]:
        lines.append("Retention of short context, %: from the scores; from the averages as printed")
        for row in found["retention"]:
            rounded = percent(row["from_rounded_averages"], 2)
            lines.append(f"  {row['table']:14} {row['row']:20} {percent(row['retention'], 2):>7}  {rounded:>7}")
        lines.append("")
    if found["effective_length"]:
        lines.append(f"Effective length by RULER's rule: the mean of the tasks strictly above {found['threshold']:g}")
        lines += [f"  {row['table']:18} {row['row']:26} {_reached(row)}" for row in found["effective_length"]]
        lines.append("")
    if found["slips"]:
        lines.append("Printed averages that are not the mean of the printed scores")
        for row in found["slips"]:
            place = f"{row['place']}, {row['row']}, {row['column']}"
            lines.append(
                f"  {place:42} printed {row['printed']:.2f}, mean {row['mean']:.2f} ({row['difference']:+.2f})"
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _reached(row: Mapping[str, Any]) -> str:
    if row["effective_length"] is None:
        return f"none, {row['misses_by']:.2f} below"
    passes = f"{length(row['effective_length']):>5}, by {row['passes_by']:.2f}"
    return passes + (f"; the next length misses by {row['misses_by']:.2f}" if row["misses_by"] is not None else "")


def published_tables(name: str) -> list[Table]:
    """A paper's tables as plain values."""
    return [_part(table)["export"] for table in published.load(name).tables.values()]


def published_figures(name: str) -> list[Drawing]:
    """Scores by length, tasks by length, the search's ablations, and factors by dimension, as the paper has them."""
    paper = published.load(name)
    tables = list(paper.tables.values())
    found = []
    for table in tables:
        if table.by_length and not table.beside and len(table.columns) > 2:
            found.append(_by_length(table, paper))
        if table.method:
            found.append(_task_map(table))
    for model in dict.fromkeys(t.model for t in tables if t.beside and t.by_length):
        found.append(_ablation(model, paper))
    if name in _FACTORS:
        found.append(_factors(*_FACTORS[name]))
    return found


def _part(table: PublishedTable) -> dict[str, Any]:
    columns = ["row", *map(str, table.columns)]
    rows: list[list[JSON]] = [[row, *(None if v == "" else v for v in values)] for row, values in table.rows.items()]
    export = Table(name=f"published-{table.id}", caption=f"{table.place}: {table.caption}", columns=columns, rows=rows)
    return {"table": table, "rows": rows, "export": export}


def _curve(table: PublishedTable, row: str, title: str = "") -> Curve:
    values = [math.nan if (x := table.number(row, c)) is None else x for c in table.columns]
    lengths = [int(column) for column in table.columns]
    return Curve(title=title or row, lengths=lengths, values=values, low=values, high=values)


def _by_length(table: PublishedTable, paper: Published) -> Drawing:
    ruler = table.suite.startswith("ruler")
    return figures.panels(
        [_curve(table, row) for row in list(table.rows)[:_MOST_CURVES]],
        None,
        window=None,
        threshold=paper.threshold if ruler else None,
        unit="Perplexity" if table.kind == "perplexity" else "Score, %",
        name=f"figure-{table.id}",
        label=f"{table.place}: {table.caption}, a panel for each of {', '.join(table.rows)}",
    )


def _task_map(table: PublishedTable) -> Drawing:
    lengths = list(table.rows)
    numbers = [[table.number(n, task) for n in lengths] for task in table.columns]
    return heatmaps.score_map(
        [[None if x is None else x / 100 for x in row] for row in numbers],
        rows=[str(task) for task in table.columns],
        columns=lengths,
        labels=("Length, tokens", "Task"),
        title=table.caption,
        name=f"figure-{table.id}",
        label=f"{table.place}: {table.caption}",
    )


def _ablation(model: str, paper: Published) -> Drawing:
    """Each ablation of a model beside the whole method, drawn dashed."""
    ours = [t for t in paper.tables.values() if t.model == model and t.beside and t.by_length]
    whole = paper.tables[ours[0].beside]
    return figures.panels(
        [
            _curve(table, row, f"{row}, {table.place[0].lower()}{table.place[1:]}")
            for table in ours
            for row in table.rows
        ],
        _curve(whole, "LongRoPE2"),
        window=None,
        threshold=paper.threshold,
        unit="Score, %",
        name=f"figure-ablation-{model}",
        label=f"Ablations on {model} by length beside LongRoPE2, dashed",
    )


def _factors(model: str, name: str) -> Drawing:
    """The published factors beside those of the methods they are compared with."""
    from harness.models.rope_facts import rope_spec_of
    from methods.longrope.methods import LongRoPE2
    from methods.ntk import NTK
    from methods.position_interpolation import PositionInterpolation
    from methods.rope import theoretical_critical_pair
    from methods.yarn import YaRN

    rope, target = rope_spec_of(model), 131_072
    methods = {
        "position_interpolation": PositionInterpolation(target_length=target),
        "ntk": NTK(target_length=target, tie="critical_dimension"),  # as the paper defines it
        "yarn": YaRN(target_length=target),
        "longrope2": LongRoPE2(factors=name),
    }
    rows = [
        {
            "method": label,
            "rescale_factors": method.rope_scaling(rope, seq_len=target).rescale_factors_P(rope).tolist(),
        }
        for label, method in methods.items()
    ]
    return figures.rescale_factors(
        rows,
        figures.looks(list(methods), ""),
        theoretical_critical_pair=theoretical_critical_pair(rope),
        extension_ratio=target / rope.original_max_position_embeddings,
        name=f"figure-factors-{name}",
    )

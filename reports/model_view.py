"""What the report says of one model: the tables, figures and samples of its sections, ready to be marked up."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports import figures, flat
from reports.cells import named_groups, whole_groups
from reports.depths import DepthGrid, depth_grids
from reports.differences import difference_rows
from reports.samples import sample_rows
from reports.selection import shown_methods
from reports.tables import Analysis, Series
from reports.verdict import verdict
from reports.views import headline, needed_samples

_DIFFERENCES = [
    "group",
    "method",
    "seq_len",
    "scale",
    "difference",
    "low",
    "high",
    "gained",
    "lost",
    "p_value",
    "p_holm",
]
_STANDINGS = [
    "group",
    "seq_len",
    "method",
    "score",
    "n",
    "leader",
    "scale",
    "difference",
    "low",
    "high",
    "p_value",
    "p_holm",
    "verdict",
    "reason",
]
_RETENTION = ["group", "method", "retention", "low", "high", "margin", "verdict", "chance_corrected"]


def model_view(model: str, analysis: Analysis) -> dict[str, Any]:
    """Every part of a model's sections; what a run has nothing for is empty."""
    manifest = analysis.manifest
    facts = manifest["models"][model]
    slug = f"m{list(manifest['models']).index(model)}"
    methods = shown_methods(model, analysis)
    series = [s for s in analysis.series if s.model == model and s.method in methods]
    head = headline(model, analysis)
    retention = [row for row in analysis.retention if row["model"] == model and row["method"] in methods]
    found: dict[str, Any] = {
        "name": model,
        "slug": slug,
        "facts": facts,
        "verdict": verdict(model, analysis),
        "headline": head,
        "methods": methods,
        "hidden": len(head["rows"]) > len(methods),
        "methods_table": flat.methods_table(head, model=model, slug=slug),
        "groups": _groups(model, slug, series, analysis),
        "standings_table": flat.rows_table(
            [row for row in analysis.standings if row["model"] == model and row["method"] in methods],
            _STANDINGS,
            name=f"{slug}-standings",
            caption=f"Who is first on {model}",
        ),
        "tasks": _tasks(slug, series, analysis),
        "heatmaps": _heatmaps(model, slug, methods, analysis),
        "differences": _differences(model, slug, methods, analysis),
        "retention": retention,
        "retention_table": flat.rows_table(
            retention, _RETENTION, name=f"{slug}-retention", caption=f"Retention on {model}"
        ),
        "factors": _factors(model, slug, methods, analysis),
        "samples": (samples := sample_rows(model, analysis, methods=methods)),
        "samples_table": flat.samples_table(samples, slug=slug),
    }
    return found | {"parts": _parts(found)}


def drawings(view: Mapping[str, Any]) -> list[Any]:
    """The figures of a model's sections."""
    found = [group["figure"] for group in view["groups"]] + [view["differences"]["figure"]]
    return [figure for figure in [*found, *(part["figure"] for part in view["factors"])] if figure is not None]


def tables(view: Mapping[str, Any]) -> list[Any]:
    """The tables of a model's sections."""
    parts = [*view["groups"], *view["tasks"], *view["heatmaps"], view["differences"], *view["factors"]]
    own = [view["methods_table"], view["standings_table"], view["retention_table"], view["samples_table"]]
    return [table for table in own + [part["table"] for part in parts] if table.rows]


def _parts(view: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sections a model has, by id and name."""
    named = [
        ("lengths", "By length", view["groups"]),
        ("depths", "By depth", view["heatmaps"]),
        ("tasks", "By task", view["tasks"]),
        ("against", "Against the base", True),
        ("retention", "Retention", True),
        ("factors", "RoPE", view["factors"]),
        ("samples", "Samples", view["samples"]),
    ]
    return [(part, text) for part, text, there in named if there]


def _groups(model: str, slug: str, series: Sequence[Series], analysis: Analysis) -> list[dict[str, Any]]:
    """A part a suite or named group: its figure, its tables and its threshold."""
    manifest = analysis.manifest
    window = manifest["models"][model]["original_max_position_embeddings"]
    found, named = [], named_groups(manifest)
    for i, suite in enumerate(whole_groups(manifest)):
        ours = [s for s in series if s.group == suite]
        if not ours:
            continue
        name = f"{slug}-group{i}"
        found.append(
            {
                "name": suite,
                "of": named.get(suite, []),
                "slug": name,
                "series": ours,
                "standings": _standings(model, suite, f"{slug}-first{i}", ours, analysis),
                "likelihood": ours[0].kind == "likelihood",
                "lengths": sorted({point.seq_len for s in ours for point in s.points}),
                "threshold": ours[0].threshold,
                "needed": needed_samples(ours, analysis.cells, manifest["report"]["confidence"]),
                "figure": figures.by_length(
                    ours, base=manifest["report"]["base"], window=window, name=f"{name}-figure"
                ),
                "cells": _addresses(ours) if suite not in named and len(manifest["metrics"][suite]) == 1 else {},
                "table": flat.points_table(ours, name=name, caption=f"{suite} by length on {model}"),
            }
        )
    return found


def _standings(
    model: str, group: str, slug: str, series: Sequence[Series], analysis: Analysis
) -> dict[str, Any] | None:
    """Who is first at each length, for the methods shown; the first may be one that is not."""
    every = [row for row in analysis.standings if row["model"] == model and row["group"] == group]
    if not every:
        return None
    methods = [s.method for s in series]
    rows = [row for row in every if row["method"] in methods]
    n = [row["n"] for row in rows if row["verdict"] is not None]
    return {
        "slug": slug,
        "methods": [method for method in methods if any(row["method"] == method for row in rows)],
        "lengths": list(dict.fromkeys(row["seq_len"] for row in rows)),
        "rows": {(row["method"], row["seq_len"]): row for row in rows},
        "leaders": {row["seq_len"]: row["leader"] for row in every},
        "n": [min(n), max(n)] if n else None,
    }


def _addresses(series: Sequence[Series]) -> dict[tuple[str, int], str]:
    """The start of the key of each single cell, by method and length."""
    return {
        (s.method, point.seq_len): key[:8]
        for s in series
        if len(s.cells) == len(s.points)
        for point, key in zip(s.points, s.cells, strict=True)
    }


def _tasks(slug: str, series: Sequence[Series], analysis: Analysis) -> list[dict[str, Any]]:
    """A part a suite of several tasks: each task's scores by length."""
    found = []
    for i, (suite, metrics) in enumerate(analysis.manifest["metrics"].items()):
        ours = [s for s in series if s.group.startswith(f"{suite}/") and s.group[len(suite) + 1 :] in metrics]
        if not ours:
            continue
        cells = {
            (s.method, s.group[len(suite) + 1 :], length): key
            for s in ours
            for (_, length), key in _addresses([s]).items()
        }
        found.append(
            {
                "name": suite,
                "slug": f"{slug}-tasks{i}",
                "tasks": list(dict.fromkeys(s.group for s in ours)),
                "series": ours,
                "likelihood": any(s.kind == "likelihood" for s in ours),
                "lengths": sorted({point.seq_len for s in ours for point in s.points}),
                "cells": cells,
                "table": flat.points_table(ours, name=f"{slug}-tasks{i}", caption=f"tasks of {suite}"),
            }
        )
    return found


def _heatmaps(model: str, slug: str, methods: Sequence[str], analysis: Analysis) -> list[dict[str, Any]]:
    ours = [cell for method in methods for cell in analysis.by_method.get((model, method), ())]
    tasks: dict[str, list[DepthGrid]] = {}
    for grid in depth_grids(ours, confidence=analysis.manifest["report"]["confidence"]):
        tasks.setdefault(grid.group, []).append(grid)
    return [
        {
            "name": task,
            "slug": f"{slug}-depths{i}",
            "grids": grids,
            "table": flat.depths_table(grids, name=f"{slug}-depths{i}", caption=f"{task} by depth"),
        }
        for i, (task, grids) in enumerate(tasks.items())
    ]


def _differences(model: str, slug: str, methods: Sequence[str], analysis: Analysis) -> dict[str, Any]:
    base = analysis.manifest["report"]["base"]
    cells = [cell for method in dict.fromkeys([base, *methods]) for cell in analysis.by_method.get((model, method), ())]
    rows = difference_rows(model, analysis.manifest, cells, base=base)
    groups: dict[str, list[dict[str, Any]]] = {}
    for suite in dict.fromkeys(row["group"] for row in rows if row["scale"] == "difference"):
        ours = [row for row in rows if row["group"] == suite and row["scale"] == "difference"]
        longest = max(row["seq_len"] for row in ours)
        groups[f"{suite} at {figures.length(longest)}"] = [row for row in ours if row["seq_len"] == longest]
    return {
        "rows": rows,
        "figure": figures.forest(groups, base=base, name=f"{slug}-forest") if groups else None,
        "table": flat.rows_table(
            rows, _DIFFERENCES, name=f"{slug}-differences", caption=f"Differences from {base} on {model}"
        ),
    }


def _factors(model: str, slug: str, methods: Sequence[str], analysis: Analysis) -> list[dict[str, Any]]:
    manifest = analysis.manifest
    facts = manifest["models"][model]
    ours = [row for row in manifest["factors"] if row["model"] == model and row["method"] in methods]
    styles = figures.looks(methods, manifest["report"]["base"])
    found = []
    for seq_len in sorted({row["seq_len"] for row in ours}):
        rows = [row for row in ours if row["seq_len"] == seq_len]
        ratio = max(1.0, seq_len / facts["original_max_position_embeddings"])
        name = f"{slug}-factors{seq_len}"
        figure = figures.rescale_factors(
            rows,
            styles,
            theoretical_critical_pair=facts["theoretical_critical_pair"],
            extension_ratio=ratio,
            name=name,
        )
        table = flat.factors_table(rows, name=name, caption=f"Rescale factors at {seq_len}")
        found.append({"seq_len": seq_len, "rows": rows, "ratio": ratio, "figure": figure, "table": table})
    return found

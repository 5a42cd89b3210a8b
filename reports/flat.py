"""The report's tables as plain values, one fact a row, for CSV, JSON and LaTeX. Scores are fractions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import JSON
from reports.cells import number
from reports.depths import DepthGrid
from reports.exports import Table
from reports.tables import Analysis, Series


def methods_table(head: Mapping[str, Any], *, model: str, slug: str) -> Table:
    """A row a method: retention, and for each suite effective lengths and the score at each length."""
    columns = ["method", "retention", "retention_low", "retention_high", "verdict"]
    for suite in head["suites"]:
        columns += [f"{suite}: effective length", f"{suite}: effective length by point rule"]
        columns += [f"{suite} at {n}" for n in head["lengths"][suite]]
    columns += ["compute_s", "peak_memory_bytes"]
    rows = []
    for row in head["rows"]:
        kept = row["retention"] or {}
        values: list[JSON] = [row["method"], *(kept.get(name) for name in ("retention", "low", "high", "verdict"))]
        for suite in head["suites"]:
            series, points = row["suites"][suite], row["scores"][suite]
            values += [series.effective_length, series.point_rule] if series else [None, None]
            values += [number(points[n].estimate.value) if n in points else None for n in head["lengths"][suite]]
        rows.append([*values, number(row["seconds"]), row["peak_memory_bytes"]])
    return Table(name=f"{slug}-methods", caption=f"Methods on {model}", columns=columns, rows=rows)


def points_table(series: Sequence[Series], *, name: str, caption: str) -> Table:
    """A row a method, group and length."""
    numbers = ["score", "low", "high", "lower_bound"]
    columns = ["group", "method", "length", *numbers, "passes", "n_ok", "n_expected", "regime", "reason"]
    rows = [
        [
            s.group,
            s.method,
            p.seq_len,
            *(number(x) for x in (p.estimate.value, p.estimate.low, p.estimate.high, p.estimate.lower_bound)),
            p.passes,
            p.n_ok,
            p.n_expected,
            p.regime,
            p.estimate.reason,
        ]
        for s in series
        for p in s.points
    ]
    return Table(name=name, caption=caption, columns=columns, rows=rows)


def depths_table(grids: Sequence[DepthGrid], *, name: str, caption: str) -> Table:
    """A row a method, depth and length."""
    rows = [
        [
            grid.group,
            grid.method,
            depth,
            length,
            number(cell.score),
            number(cell.interval.low) if cell.interval else None,
            number(cell.interval.high) if cell.interval else None,
            cell.n_ok,
            cell.n_recorded,
        ]
        for grid in grids
        for depth, cells in zip(grid.depths, grid.cells, strict=True)
        for length, cell in zip(grid.lengths, cells, strict=True)
    ]
    columns = ["task", "method", "depth_percent", "length", "score", "low", "high", "n_ok", "n_recorded"]
    return Table(name=name, caption=caption, columns=columns, rows=rows)


def rows_table(rows: Sequence[Mapping[str, JSON]], columns: Sequence[str], *, name: str, caption: str) -> Table:
    """Some columns of rows that are flat already."""
    return Table(name=name, caption=caption, columns=columns, rows=[[row[c] for c in columns] for row in rows])


def factors_table(rows: Sequence[Mapping[str, JSON]], *, name: str, caption: str) -> Table:
    """A row a method and rotary pair; an infinite factor is None."""
    flat = [[row["method"], pair, number(x)] for row in rows for pair, x in enumerate(row["rescale_factors"])]
    return Table(name=name, caption=caption, columns=["method", "rotary_pair", "rescale_factor"], rows=flat)


def failures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a cell with unanswered samples."""
    places, counts = (
        ["model", "method", "suite", "task", "seq_len"],
        ["ok", "truncated", "oom", "timeout", "error", "missing"],
    )
    flat = [[*(r["entry"][p] for p in places), *(r["counts"][c] for c in counts), r["error"]] for r in rows]
    return Table(name="failures", caption="Unanswered samples", columns=[*places, *counts, "error"], rows=flat)


def samples_table(rows: Sequence[Mapping[str, Any]], *, slug: str) -> Table:
    """A row a shown sample."""
    flat = [
        [
            *(row["entry"][place] for place in ("method", "suite", "task", "seq_len")),
            row["example_id"],
            row["score"],
            " | ".join(row["answers"]),
            row["output"],
        ]
        for row in rows
    ]
    columns = ["method", "suite", "task", "length", "sample", "score", "expected", "answer"]
    return Table(name=f"{slug}-samples", caption="Samples", columns=columns, rows=flat)


def provenance_tables(
    analysis: Analysis, settings: Sequence[tuple[str, str]], environment: Sequence[tuple[str, str]]
) -> dict[str, Table]:
    """Methods, suites, the request and the environment."""
    manifest = analysis.manifest
    methods = [
        [label, m["name"], m["version"], _text(m["params"]), m["original_inside_window"], m["source"]]
        for label, m in manifest["methods"].items()
    ]
    suites = [
        [label, suite["name"], suite["version"], _text(suite["params"]), _text(manifest["metrics"][label])]
        for label, suite in manifest["suites"].items()
    ]
    pair = ["name", "value"]
    return {
        "methods": Table(
            name="provenance-methods",
            caption="Methods",
            columns=["label", "method", "version", "settings", "original_inside_window", "source"],
            rows=methods,
        ),
        "suites": Table(
            name="provenance-suites",
            caption="Suites",
            columns=["label", "suite", "version", "settings", "metrics"],
            rows=suites,
        ),
        "request": Table(name="provenance-request", caption="The request", columns=pair, rows=list(settings)),
        "environment": Table(
            name="provenance-environment", caption="Environment", columns=pair, rows=list(environment)
        ),
    }


def _text(value: JSON) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)

"""What the report's overview tables hold: rows picked and joined from the analysis."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness import stats
from reports.cells import CellResult, whole_groups
from reports.tables import Analysis, Series

_MOST_ERROR_TEXT = 300  # characters


def completeness(analysis: Analysis) -> dict[str, Any]:
    """How much of the plan is there."""
    counts: Counter[str] = Counter()
    for cell in analysis.cells:
        counts.update(cell.counts)
    return {
        "n_cells": len(analysis.cells),
        "n_cells_answered": sum(cell.counts["ok"] == cell.n_expected for cell in analysis.cells),
        "n_samples": sum(cell.n_expected for cell in analysis.cells),
        "counts": dict(counts),
        "seconds": math.fsum(cell.seconds for cell in analysis.cells),
    }


def headline(model: str, analysis: Analysis) -> dict[str, Any]:
    """A row a method: effective length and scores a suite or group, retention over all suites, cost."""
    suites = [name for name in whole_groups(analysis.manifest) if any(s.group == name for s in analysis.series)]
    series = {(s.group, s.method): s for s in analysis.series if s.model == model}
    lengths = {
        suite: sorted({p.seq_len for (group, _), s in series.items() if group == suite for p in s.points})
        for suite in suites
    }
    overall = {row["method"]: row for row in analysis.retention if row["model"] == model and row["group"] == "all"}
    rows = []
    for method in analysis.manifest["methods"]:
        cells = analysis.by_method.get((model, method), [])
        if cells:
            rows.append(
                {
                    "method": method,
                    "base": method == analysis.manifest["report"]["base"],
                    "suites": {suite: series.get((suite, method)) for suite in suites},
                    "scores": {suite: _by_length(series.get((suite, method))) for suite in suites},
                    "retention": overall.get(method),
                    "seconds": math.fsum(c.seconds for c in cells),
                    "peak_memory_bytes": max((c.peak_memory_bytes or 0 for c in cells), default=0) or None,
                }
            )
    likelihood = {s.group for s in analysis.series if s.kind == "likelihood"}
    return {"suites": suites, "lengths": lengths, "rows": rows, "likelihood": likelihood}


def needed_samples(series: Sequence[Series], cells: Sequence[CellResult], confidence: float) -> dict[str, int] | None:
    """Samples a length of a binary group: planned, and the fewest whose perfect score would pass the threshold."""
    keys = {key for s in series for key in s.cells}
    kinds = {cell.metric["kind"] for cell in cells if cell.entry["key"] in keys}
    bar = series[0].threshold.value
    fewest = stats.samples_to_pass(bar, confidence=confidence) if bar is not None and kinds == {"binary"} else None
    if fewest is None:
        return None
    return {"fewest": fewest, "planned": min(p.n_expected for s in series for p in s.points)}


def trouble(analysis: Analysis) -> list[dict[str, Any]]:
    """The cells with samples that have no answer: counts by status, and the first error's text."""
    rows = []
    for cell in analysis.cells:
        if cell.counts["ok"] < cell.n_expected:
            errors = [record.error for record in cell.records if record.error]
            text = errors[0] if errors else ""
            shown = text if len(text) <= _MOST_ERROR_TEXT else text[:_MOST_ERROR_TEXT] + "…"
            rows.append({"cell": cell, "entry": cell.entry, "counts": cell.counts, "error": shown})
    return rows


def _by_length(series: Series | None) -> dict[int, Any]:
    return {point.seq_len: point for point in series.points} if series else {}

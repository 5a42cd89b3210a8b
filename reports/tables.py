"""All arithmetic of a report: a run's records to scores, effective lengths and retention.

`analyse(run)` computes everything once; `summary(run)` is its machine-readable form, the content of `summary.json`;
`reports.figures` and `reports.html` draw and print what stands here and compute nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness import stats
from harness.types import JSON, RunData
from reports.cells import CellResult, by_method, groups, in_plan_order, named_groups, number, one_regime, read_cells
from reports.definitions import NOLIMA_SHARE, RULER_THRESHOLD, definitions
from reports.firsts import standing_rows
from reports.retention import retention_rows


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The score a length must reach; `value` is None where the base method's score is not known."""

    name: str
    share: float | None
    value: float | None

    def met_by(self, score: float | None) -> bool:
        """Whether a score or a lower bound reaches it; an unknown one does not."""
        if score is None or self.value is None:
            return False
        score, value = round(score, 12), round(self.value, 12)  # the last bits of a mean decide nothing
        return score > value if self.name == "ruler" else score >= value


@dataclass(frozen=True, kw_only=True)
class Point:
    """A method's score in a group at one length."""

    seq_len: int
    estimate: stats.Estimate
    n_expected: int
    n_ok: int
    regime: str | None
    passes: bool  # by the lower-bound rule
    passes_point: bool


@dataclass(frozen=True, kw_only=True)
class Series:
    """A method's scores in a group (`suite`, `suite/task`, or several suites) by length.

    kind: `likelihood` where all is.
    """

    model: str
    method: str
    group: str
    kind: str
    threshold: Threshold
    points: tuple[Point, ...]
    cells: tuple[str, ...]

    @property
    def effective_length(self) -> int | None:
        """By the lower-bound rule."""
        return stats.effective_length([(point.seq_len, point.passes) for point in self.points])

    @property
    def point_rule(self) -> int | None:
        """By the point rule."""
        return stats.effective_length([(point.seq_len, point.passes_point) for point in self.points])

    @property
    def reason(self) -> str | None:
        """Why there is no effective length."""
        if self.effective_length is not None:
            return None
        if self.threshold.value is None:
            return "the base method has no score at its shortest tested length"
        first = self.points[0]
        if first.estimate.lower_bound is None:
            return f"at the shortest tested length, {first.seq_len}: {first.estimate.reason}"
        return f"the lower bound at the shortest tested length, {first.seq_len}, is {first.estimate.lower_bound:.3g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """Everything a report says."""

    manifest: Mapping[str, JSON]
    cells: list[CellResult]
    scores: list[dict[str, Any]]
    series: list[Series]
    retention: list[dict[str, Any]]
    standings: list[dict[str, Any]]

    @cached_property
    def by_method(self) -> dict[tuple[str, str], list[CellResult]]:
        """The cells of each (model, method)."""
        return by_method(self.cells)


def analyse(run: RunData) -> Analysis:
    """Every number of a run, in the plan's order."""
    cells, manifest = read_cells(run), in_plan_order(run.manifest)
    confidence = manifest["report"]["confidence"]
    series = _all_series(manifest, cells)
    return Analysis(
        manifest=manifest,
        cells=cells,
        scores=[_score_row(cell, confidence) for cell in cells],
        series=series,
        retention=retention_rows(manifest, cells),
        standings=standing_rows(manifest, cells, series),
    )


def summary(run: RunData) -> dict[str, Any]:
    """The content of `summary.json`: JSON values only, equal for equal records."""
    return as_json(analyse(run))


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The machine-readable form of an analysis."""
    return {
        "definitions": definitions(analysis.manifest["report"]),
        "scores": analysis.scores,
        "effective_length": [_effective_length_row(series) for series in analysis.series],
        "retention": analysis.retention,
        "standings": analysis.standings,
        "environment": analysis.manifest["environment"],
    }


def score_of(cells: Sequence[CellResult], confidence: float) -> stats.Estimate:
    """The mean score of cells; that of a single one is computed once."""
    if len(cells) > 1:
        return stats.mean([cell.sample for cell in cells], confidence=confidence)
    return cells[0].estimate(confidence)


def _score_row(cell: CellResult, confidence: float) -> dict[str, Any]:
    estimate = score_of([cell], confidence)
    row = {name: cell.entry[name] for name in ("key", "model", "method", "suite", "task", "seq_len")}
    row |= {"metric": cell.metric["name"], "score": number(estimate.value)}
    row |= {"low": number(estimate.low), "high": number(estimate.high)}
    if cell.metric["kind"] == "likelihood":
        row["perplexity"] = number(1 / estimate.value) if estimate.value else None
    row["n_expected"] = cell.n_expected
    row |= {f"n_{status}": n for status, n in cell.counts.items()}
    reason = estimate.reason
    if estimate.value is None:
        reason = f"{reason} ({cell.unanswered()})"
    return row | {
        "regime": cell.regime,
        "attention": cell.attention,
        "seconds": number(cell.seconds),
        "peak_memory_bytes": cell.peak_memory_bytes,
        "reason": reason,
    }


def _all_series(manifest: Mapping[str, JSON], cells: Sequence[CellResult]) -> list[Series]:
    report = manifest["report"]
    found = []
    members_of = groups(cells, named_groups(manifest))
    for model in manifest["models"]:
        for group, members in members_of.items():
            tasks = {_task(cell) for cell in members}
            ours_of = by_method(members)
            lengths = {method: _lengths(tasks, ours_of.get((model, method), ())) for method in manifest["methods"]}
            threshold = _threshold(report, lengths.get(report["base"], {}))
            for method, ours in lengths.items():
                if ours:
                    found.append(_series(model, method, group, ours, threshold, report["confidence"]))
    return found


def _task(cell: CellResult) -> tuple[str, str]:
    return cell.entry["suite"], cell.entry["task"]


def _lengths(tasks: set[tuple[str, str]], cells: Sequence[CellResult]) -> dict[int, list[CellResult]]:
    """The cells of each length at which every one of the tasks is planned, shortest first."""
    found: dict[int, list[CellResult]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seq_len):
        found.setdefault(cell.seq_len, []).append(cell)
    return {length: members for length, members in found.items() if {_task(c) for c in members} == tasks}


def _threshold(report: Mapping[str, JSON], base: Mapping[int, Sequence[CellResult]]) -> Threshold:
    name = report["threshold"]
    if name == "ruler":
        return Threshold(name=name, share=None, value=RULER_THRESHOLD)
    share = NOLIMA_SHARE if name == "nolima" else report["native_share"]
    own = stats.mean([cell.sample for cell in base[min(base)]]).value if base else None
    return Threshold(name=name, share=share, value=None if own is None else share * own)


def _series(
    model: str,
    method: str,
    group: str,
    lengths: Mapping[int, Sequence[CellResult]],
    threshold: Threshold,
    confidence: float,
) -> Series:
    points = []
    for seq_len, members in lengths.items():
        estimate = score_of(members, confidence)
        points.append(
            Point(
                seq_len=seq_len,
                estimate=estimate,
                n_expected=sum(cell.n_expected for cell in members),
                n_ok=sum(cell.counts["ok"] for cell in members),
                regime=one_regime({cell.regime for cell in members}),
                passes=threshold.met_by(estimate.lower_bound),
                passes_point=threshold.met_by(estimate.counted),
            )
        )
    cells = [cell for members in lengths.values() for cell in members]
    kinds = {cell.metric["kind"] for cell in cells}
    return Series(
        model=model,
        method=method,
        group=group,
        kind=kinds.pop() if len(kinds) == 1 else "graded",
        threshold=threshold,
        points=tuple(points),
        cells=tuple(cell.entry["key"] for cell in cells),
    )


def _effective_length_row(series: Series) -> dict[str, Any]:
    threshold = series.threshold
    return {
        "model": series.model,
        "method": series.method,
        "group": series.group,
        "effective_length": series.effective_length,
        "point_rule": series.point_rule,
        "threshold": {"name": threshold.name, "value": number(threshold.value), "share": threshold.share},
        "lengths": [point.seq_len for point in series.points],
        "reason": series.reason,
        "cells": list(series.cells),
    }

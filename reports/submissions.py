"""Runs that ask to stand on a leaderboard: read, checked, and refused with reasons.

A submission is a stranger's folder. Nothing of it is trusted before its shape is checked, and no page of it is copied:
reports are made again from its records.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from harness import catalogue
from harness.errors import RequestError
from harness.manifest import SCHEMA, cell_key
from harness.report_settings import ReportSettings, check_groups
from harness.store import Store
from harness.types import JSON, STATUSES, MetricKind, Record, Regime, RunData, canonical_json
from reports.comparable import backend
from reports.shapes import EACH, Shape, wrong_shapes
from reports.tables import Analysis, analyse

_MOST_REASONS = 10  # of one submission
_HASH = re.compile(r"[0-9a-f]{64}")
_NUMBER = (int, float)
_METHOD: Shape = {"name": str, "params": {EACH: object}, "version": int, "source": str, "artifacts": {EACH: str}}
_MODEL: Shape = {
    "params": {EACH: object},
    "original_max_position_embeddings": int,
    "rope_theta": _NUMBER,
    "rotary_dim": int,
    "theoretical_critical_pair": (int, type(None)),
}
_CELL: Shape = {
    **dict.fromkeys(("key", "model", "method", "method_name", "suite", "task", "dtype", "attention"), str),
    **dict.fromkeys(("seq_len", "n_samples", "seed"), int),
    "artifacts": {EACH: str},
}
_FACTORS: Shape = {
    "model": str,
    "method": str,
    "seq_len": int,
    "attention_factor": _NUMBER,
    "rescale_factors": [(*_NUMBER, type(None))],
    "critical_pair": (int, type(None)),
}
_MANIFEST: Shape = {
    **dict.fromkeys(("title", "preset", "plan"), str),
    "seed": int,
    "longreach": (str, type(None)),
    "models": {EACH: _MODEL},
    "methods": {EACH: _METHOD},
    "suites": {EACH: {"name": str, "params": {EACH: object}, "version": int}},
    "metrics": {EACH: {EACH: {"name": str, "kind": str, "chance": _NUMBER}}},
    "factors": [_FACTORS],
    "cells": [_CELL],
    "report": {"base": str, "threshold": str, "native_share": _NUMBER, "margin": _NUMBER, "confidence": _NUMBER},
    "environment": {EACH: object},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Submission:
    """A run that may stand on the board."""

    folder: str
    run: RunData
    analysis: Analysis
    devices: tuple[str, ...]  # that computed


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A run that may not, and why."""

    folder: str
    reasons: tuple[str, ...]


@dataclass(kw_only=True)
class _Sorted:
    """Submissions and refusals while they are told apart."""

    accepted: list[Submission] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def refuse(self, folder: str, reasons: Sequence[str]) -> None:
        shown = list(reasons[:_MOST_REASONS])
        if len(reasons) > _MOST_REASONS:
            shown.append(f"and {len(reasons) - _MOST_REASONS} more")
        self.refused.append(Refusal(folder=folder, reasons=tuple(shown)))


def read_submissions(folders: Sequence[Path]) -> tuple[list[Submission], list[Refusal]]:
    """The runs that may stand together on a board, and the others; in an order that the arguments' order does not move.

    Refused: what is no run or of another schema, was changed after it was written, is not complete, or rests on other
    definitions (threshold, margin, confidence, a suite's version, settings or data) than most of the others.
    """
    found = _Sorted()
    for folder in folders:
        reasons, submission = _read(folder)
        if submission is None:
            found.refuse(folder.name, reasons)
        else:
            found.accepted.append(submission)
    found.accepted.sort(key=lambda s: (s.run.manifest["title"], s.run.manifest["plan"], s.folder))
    _refuse_doubles(found)
    _refuse_other_definitions(found)
    found.refused.sort(key=lambda refusal: (refusal.folder, refusal.reasons))
    return found.accepted, found.refused


def _read(folder: Path) -> tuple[list[str], Submission | None]:
    store = Store(folder)
    try:
        manifest = store.manifest()
    except RequestError as error:
        return [str(error)], None
    if manifest is None:
        return ["it holds no run: there is no run.json in it"], None
    reasons = _wrong_manifest(manifest)
    if reasons:
        return reasons, None
    try:
        records = {cell["key"]: tuple(store.records(cell["key"])) for cell in manifest["cells"]}
    except (RequestError, TypeError, KeyError, ValueError, AttributeError) as error:
        return [f"its records cannot be read: {error}"], None
    run = RunData(manifest=manifest, records=records)
    reasons = [*_incomplete(run, store), *_wrong_records(run)]
    if reasons:
        return reasons, None
    try:
        analysis = analyse(run)
        devices = tuple(sorted({_device(store, key) for key in records}))
    except (TypeError, KeyError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        return [f"it cannot be analysed: {type(error).__name__}: {error}"], None
    return [], Submission(folder=folder.name, run=run, analysis=analysis, devices=devices)


def _wrong_manifest(manifest: Any) -> list[str]:
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        given = manifest.get("schema") if isinstance(manifest, dict) else "none"
        return [f"its schema is {given!r}: it should be {SCHEMA}; run it again with this version"]
    reasons = [f"run.json: {problem}" for problem in wrong_shapes(manifest, _MANIFEST)]
    return reasons or [*_wrong_settings(manifest), *_wrong_cells(manifest)]


def _wrong_settings(manifest: Mapping[str, JSON]) -> Iterator[str]:
    kinds = {label: {metric["kind"] for metric in tasks.values()} for label, tasks in manifest["metrics"].items()}
    try:
        report: ReportSettings = catalogue.build(ReportSettings, manifest["report"], where="report")
        check_groups(report.groups, kinds)
    except RequestError as error:
        yield f"run.json: {error}"
    for label, tasks in manifest["metrics"].items():
        for task, metric in tasks.items():
            if metric["kind"] not in get_args(MetricKind) or not 0 <= metric["chance"] < 1:
                yield f"run.json: metrics.{label}.{task} is none: {metric}"
    if manifest["report"]["base"] not in manifest["methods"]:
        yield f"run.json: the base method '{manifest['report']['base']}' is not among the methods"


def _wrong_cells(manifest: Mapping[str, JSON]) -> Iterator[str]:
    if not manifest["cells"]:
        yield "run.json: it plans no cell"
    for cell in manifest["cells"]:
        name = "/".join(str(cell[part]) for part in ("model", "method", "suite", "task", "seq_len"))
        known = all(cell[part] in manifest[f"{part}s"] for part in ("model", "method", "suite"))
        if not known or cell["task"] not in manifest["metrics"].get(cell["suite"], {}):
            yield f"run.json: cell {name} names a model, method, suite or task that run.json does not describe"
        elif cell["seq_len"] < 1 or cell["n_samples"] < 1:
            yield f"run.json: cell {name} should have a length and samples"
        elif not _HASH.fullmatch(cell["key"]) or cell_key(manifest, cell) != cell["key"]:
            yield f"run.json: cell {name} is not what its key says: it was changed after it was written"


def _incomplete(run: RunData, store: Store) -> Iterator[str]:
    for cell in run.manifest["cells"]:
        n, planned = len(run.records[cell["key"]]), cell["n_samples"]
        if n != planned or not store.is_finished(cell["key"]):
            name = "/".join(str(cell[part]) for part in ("model", "method", "suite", "task", "seq_len"))
            yield f"it is not complete: {name} has {n} of {planned} samples"


def _wrong_records(run: RunData) -> Iterator[str]:
    metrics = run.manifest["metrics"]
    for cell in run.manifest["cells"]:
        kind = metrics[cell["suite"]][cell["task"]]["kind"]
        for record in run.records[cell["key"]]:
            if not _is_record(record, kind):
                yield f"record {record.example_id!r} of {cell['suite']}/{cell['task']} holds a value that cannot be"
                break


def _is_record(record: Record, kind: MetricKind) -> bool:
    if not isinstance(record.example_id, str) or record.status not in STATUSES or not isinstance(record.output, str):
        return False
    if record.regime not in (*get_args(Regime), None) or not isinstance(record.error, str | None):
        return False
    if not all(_is_number(x, 0) for x in (record.prefill_s, record.decode_s, record.peak_memory_bytes)):
        return False
    if not isinstance(record.measures, dict) or not isinstance(record.metadata, dict):
        return False
    if record.status != "ok":
        return record.score is None
    if not _is_number(record.score, 0, 1) or (kind == "binary" and record.score not in (0, 1)):
        return False
    measures = record.measures
    return kind != "likelihood" or (
        _is_number(measures.get("nll"), 0) and _is_number(measures.get("n_scored_tokens"), 1)
    )


def _is_number(value: Any, low: float, high: float = math.inf) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and low <= value <= high


def _device(store: Store, key: str) -> str:
    mark = json.loads((store.folder / "cells" / key / "cell.json").read_text(encoding="utf-8"))
    return str(mark.get("environment", {}).get("device", "unknown"))


def _refuse_doubles(found: _Sorted) -> None:
    seen: dict[str, str] = {}
    kept = []
    for submission in found.accepted:
        plan = submission.run.manifest["plan"]
        if plan in seen:
            found.refuse(submission.folder, [f"it is the same plan as {seen[plan]}"])
        else:
            seen[plan] = submission.folder
            kept.append(submission)
    found.accepted = kept


def _refuse_other_definitions(found: _Sorted) -> None:
    """What most submissions share is the board's; ties go to the definition that sorts first."""
    definitions = [_definitions(submission.run.manifest) for submission in found.accepted]
    held: dict[str, Counter[str]] = {}
    for ours in definitions:
        for name, value in ours.items():
            held.setdefault(name, Counter())[value] += 1
    board = {name: min(counts, key=lambda value: (-counts[value], value)) for name, counts in held.items()}
    kept = []
    for submission, ours in zip(found.accepted, definitions, strict=True):
        other = [name for name, value in ours.items() if value != board[name]]
        if other:
            reasons = [f"another definition of {name}: {ours[name]}, the board has {board[name]}" for name in other]
            found.refuse(submission.folder, reasons)
        else:
            kept.append(submission)
    found.accepted = kept


def _definitions(manifest: Mapping[str, JSON]) -> dict[str, str]:
    """What must be equal for two runs' numbers to mean the same: name -> canonical JSON."""
    found = {f"report.{name}": canonical_json(manifest["report"][name]) for name in _MANIFEST["report"]}
    for label, suite in manifest["suites"].items():
        found[f"suite {label}"] = canonical_json([suite["name"], suite["version"], suite["params"]])
    found["the backend"] = canonical_json(sorted({backend(manifest, model) for model in manifest["models"]}))
    for cell in manifest["cells"]:
        own = manifest["methods"][cell["method"]]["artifacts"]
        texts = {
            name: value
            for name, value in cell["artifacts"].items()
            if name not in own and name not in ("weights", "config", "commit", "tokenizer")
        }
        where = f"{cell['suite']}/{cell['task']}"
        found[f"the data of {where}"] = canonical_json(texts)
        found[f"the metric of {where}"] = canonical_json(manifest["metrics"][cell["suite"]][cell["task"]])
    return found

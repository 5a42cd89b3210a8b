"""Scores again from recorded outputs, without a model: what the scoring code of today makes of the answers of then."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness import catalogue
from harness.errors import RequestError
from harness.types import JSON, Example, Metric, Output, Record, RunData, Score
from reports.cells import CellResult, read_cells
from reports.clean import line
from reports.text import DASH

_MOST_ROWS = 50
_SAME = 1e-12  # a mean summed in another order is the same score


@dataclass(frozen=True, kw_only=True)
class ScoreChange:
    """A sample whose score is another one now. None: no score, for the reason in `error`.

    settled: its generation ended where the old score could no longer change, so the new one may miss what would follow.
    """

    cell: str  # model/method/suite/task/seq_len
    example_id: str
    old: float | None
    new: float | None
    version_then: int
    version_now: int
    error: str | None = None
    settled: bool = False


@dataclass(frozen=True, kw_only=True)
class Unscored:
    """Cells whose scores stay as recorded, and why."""

    reason: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """What re-scoring did."""

    changes: tuple[ScoreChange, ...]
    unscored: tuple[Unscored, ...]
    n_rescored: int  # samples
    n_samples: int  # recorded ones


def rescore(run: RunData, *, paths: Mapping[str, Mapping[str, str]] | None = None) -> tuple[RunData, Rescored]:
    """The run with every score computed again from its recorded output, and what came of it.

    Suites are built from the manifest, which holds no paths: `paths` (suite label -> setting -> path) gives the
    folders of suites that score with their data. Scores of log-likelihoods are computed from the recorded sums; where
    they rest on what is not recorded, they stay, and `Rescored.unscored` says so. Raises RequestError for paths that
    fit no suite.
    """
    paths = paths or {}
    for label in paths:
        if label not in run.manifest["suites"]:
            raise RequestError(f"this run has no suite '{label}': it has {', '.join(run.manifest['suites'])}")
    suites = {label: _build(label, facts, paths.get(label, {})) for label, facts in run.manifest["suites"].items()}
    records = dict(run.records)
    changes: list[ScoreChange] = []
    unscored: dict[str, list[str]] = {}
    n_rescored = 0
    for cell in read_cells(run):
        if not cell.records:
            continue
        suite = suites[cell.entry["suite"]]
        other = _other_data(cell, suite) if cell.entry["suite"] in paths else None
        found = other or _rescored_cell(cell, suite)
        if isinstance(found, str):
            unscored.setdefault(found, []).append(_name(cell))
            continue
        records[cell.entry["key"]] = found
        n_rescored += len(found)
        changes += _changes(cell, found, run.manifest["suites"][cell.entry["suite"]]["version"], suite.version)
    kept = tuple(Unscored(reason=reason, cells=tuple(cells)) for reason, cells in unscored.items())
    n_samples = sum(map(len, run.records.values()))
    result = Rescored(changes=tuple(changes), unscored=kept, n_rescored=n_rescored, n_samples=n_samples)
    return RunData(manifest=_with_todays_suites(run.manifest, suites), records=records), result


def render_text(rescored: Rescored) -> str:
    """What changed, as a table, and what was left as it was."""
    changes = rescored.changes
    lines = [f"{rescored.n_rescored} of {rescored.n_samples} samples scored again, {len(changes)} scores differ"]
    if changes:
        lines += ["", f"{'old':>10}  {'new':>10}  {'version':9}  sample"]
    for change in changes[:_MOST_ROWS]:
        version = f"{change.version_then} to {change.version_now}"
        error = f" ({line(change.error)})" if change.error else ""
        error += " (its output ends where the old score was settled)" if change.settled else ""
        sample = f"{line(change.cell)}: {line(change.example_id)}"
        lines.append(f"{_shown(change.old):>10}  {_shown(change.new):>10}  {version:9}  {sample}{error}")
    if len(changes) > _MOST_ROWS:
        lines.append(f"and {len(changes) - _MOST_ROWS} more")
    for kept in rescored.unscored:
        more = f" and {len(kept.cells) - 1} more cells" if len(kept.cells) > 1 else ""
        lines.append(f"not scored again: {line(kept.cells[0])}{more}: {line(kept.reason)}")
    return "\n".join(lines) + "\n"


def _build(label: str, facts: Mapping[str, JSON], paths: Mapping[str, str]) -> Any:
    """The suite as it is today, or the reason there is none."""
    where = f"suite '{label}'"
    try:
        return catalogue.build(catalogue.resolve("suite", facts["name"]), {**facts["params"], **paths}, where=where)
    except RequestError as error:
        return _NoSuite(reason=str(error), version=facts["version"])


@dataclass(frozen=True)
class _NoSuite:
    reason: str
    version: int


def _other_data(cell: CellResult, suite: Any) -> str | None:
    """Why the data at the given path are not those of then, if they are not."""
    if isinstance(suite, _NoSuite):
        return None
    try:
        artifacts = suite.artifacts(cell.entry["task"])
    except RequestError as error:
        return str(error)
    recorded = cell.entry["artifacts"]
    other = [name for name, value in artifacts.items() if recorded.get(name) != value]
    return f"the {', '.join(other)} at the given path are not those of the run" if other else None


def _rescored_cell(cell: CellResult, suite: Any) -> tuple[Record, ...] | str:
    """The cell's records with the scores of today, or why they stay."""
    if isinstance(suite, _NoSuite):
        return suite.reason
    task = cell.entry["task"]
    try:
        metric: Metric = suite.metric(task)
    except RequestError as error:
        return str(error)
    if any(record.output or record.n_new_tokens for record in cell.records):
        return _each(cell, lambda record: _score_of_text(suite, task, record))
    if not cell.answered:
        return tuple(cell.records)
    if metric.kind == "likelihood" == cell.metric["kind"]:
        return _each(cell, _score_of_sums)
    if all(record.scored for record in cell.answered.values()):
        return _each(cell, lambda record: _score_of_segments(suite, task, record))
    if not any({"nll", "loglikelihoods"} & record.measures.keys() for record in cell.records):
        return "no output text is recorded"
    return "only log-likelihood sums are recorded, and this score needs each token's"


def _each(cell: CellResult, score: Callable[[Record], Score]) -> tuple[Record, ...] | str:
    """Every record with an output scored again. One that failed without an output stays as it is."""
    found = []
    for record in cell.records:
        if record.status != "ok" and not (record.status == "error" and record.output):
            found.append(record)
            continue
        try:
            new = score(record)
        except RequestError as error:
            return str(error)
        except Exception as error:  # whatever a suite raises is that sample's result, as in a run
            reason = f"{type(error).__name__}: {error}"[:500]
            found.append(replace(record, status="error", score=None, error=reason, measures={}))
            continue
        measures = {**record.measures, **new.measures}
        found.append(replace(record, status="ok", score=new.value, error=None, measures=measures))
    return tuple(found)


def _score_of_text(suite: Any, task: str, record: Record) -> Score:
    return _score_of(suite, task, record, Output(text=record.output))


def _score_of_segments(suite: Any, task: str, record: Record) -> Score:
    """A segment's tokens are recorded in sum: enough for a score that needs each token's place for nothing."""
    output = Output(
        logprobs=tuple((logprob,) for logprob, _ in record.scored), greedy=tuple((best,) for _, best in record.scored)
    )
    score = _score_of(suite, task, record, output)
    return Score(value=score.value, measures={**score.measures, **record.measures})


def _score_of(suite: Any, task: str, record: Record, output: Output) -> Score:
    example = Example(id=record.example_id, answers=tuple(record.answers), metadata=record.metadata)
    found = suite.score(task, example, output)
    score = found if isinstance(found, Score) else Score(value=float(found))
    if not 0 <= score.value <= 1:
        raise ValueError(f"the suite scored {score.value}: a score is a fraction in [0, 1]")
    return score


def _score_of_sums(record: Record) -> Score:
    n = record.measures["n_scored_tokens"]
    return Score(value=math.exp(min(0.0, -record.measures["nll"] / n)) if n else 0.0)


def _changes(cell: CellResult, found: Sequence[Record], then: int, now: int) -> list[ScoreChange]:
    return [
        ScoreChange(
            cell=_name(cell),
            example_id=old.example_id,
            old=old.score,
            new=new.score,
            version_then=then,
            version_now=now,
            error=new.error,
            settled=old.stopped == "settled",
        )
        for old, new in zip(cell.records, found, strict=True)
        if not _equal(old.score, new.score)
    ]


def _equal(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    return math.isclose(old, new, rel_tol=_SAME, abs_tol=_SAME)


def _with_todays_suites(manifest: Mapping[str, JSON], suites: Mapping[str, Any]) -> dict[str, JSON]:
    facts = {label: {**facts, "version": suites[label].version} for label, facts in manifest["suites"].items()}
    metrics = {
        label: {task: _metric(suites[label], task, metric) for task, metric in tasks.items()}
        for label, tasks in manifest["metrics"].items()
    }
    return {**manifest, "suites": facts, "metrics": metrics}


def _metric(suite: Any, task: str, recorded: JSON) -> JSON:
    if isinstance(suite, _NoSuite):
        return recorded
    try:
        metric = suite.metric(task)
    except RequestError:
        return recorded
    return {"name": metric.name, "kind": metric.kind, "chance": metric.chance}


def _name(cell: CellResult) -> str:
    return "/".join(str(cell.entry[name]) for name in ("model", "method", "suite", "task", "seq_len"))


def _shown(score: float | None) -> str:
    return DASH if score is None else f"{score:.6g}"

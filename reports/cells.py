"""A run's cells as the tables need them: the plan's entry, its records, its score."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness import stats
from harness.types import JSON, STATUSES, Record, RunData, canonical_json

MANY_CELLS = 10_000
FEWER_RESAMPLES = 2_000  # a percentile then moves by about 0.06 standard errors, instead of 0.04


def number(value: float | None) -> float | None:
    """Six significant digits, so that the last bits of a sum move no byte; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def one_regime(regimes: set[str | None]) -> str | None:
    """What several regimes are together: the only one there is, else mixed; None where none is known."""
    known = regimes - {None}
    return "mixed" if len(known) > 1 else next(iter(known), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class CellResult:
    """One cell of the plan and what is recorded of it. Records are in the order of their example ids."""

    entry: Mapping[str, JSON]
    metric: Mapping[str, JSON]
    records: tuple[Record, ...]
    n_resamples: int = stats.RESAMPLES

    @property
    def seq_len(self) -> int:
        """Tokens: prompt and new tokens together."""
        length: int = self.entry["seq_len"]
        return length

    @property
    def n_expected(self) -> int:
        """Planned samples: the denominator."""
        n: int = self.entry["n_samples"]
        return n

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples by status, and `missing`: planned and not recorded."""
        found = Counter(record.status for record in self.records)
        return {status: found[status] for status in STATUSES} | {"missing": max(0, self.n_expected - len(self.records))}

    @cached_property
    def answered(self) -> dict[str, Record]:
        """The records with a score, by example id."""
        return {r.example_id: r for r in self.records if r.status == "ok" and r.score is not None}

    @cached_property
    def sample(self) -> stats.Sample:
        """The answered samples' scores, those of one document together."""
        answered = list(self.answered.values())
        values, weights = self.values(answered)
        kind, documents = self.metric["kind"], shared_documents(answered)
        if documents and kind != "likelihood":
            kind, (values, weights) = "graded", stats.clustered(values, documents)
        return stats.Sample(
            name=self.entry["key"],
            kind=kind,
            values_N=values,
            weights_N=weights,
            n_expected=self.n_expected,
            n_resamples=self.n_resamples,
        )

    def estimate(self, confidence: float) -> stats.Estimate:
        """The score with its interval."""
        if confidence not in self._estimates:
            self._estimates[confidence] = stats.mean([self.sample], confidence=confidence)
        return self._estimates[confidence]

    @cached_property
    def _estimates(self) -> dict[float, stats.Estimate]:
        return {}

    def values(self, records: Iterable[Record]) -> tuple[stats.FloatArray, stats.FloatArray]:
        """Values and weights of records, as `stats.Sample` takes them."""
        chosen = list(records)
        if self.metric["kind"] == "likelihood":
            nll = [float(r.measures["nll"]) for r in chosen]
            return np.array(nll), np.array([float(r.measures["n_scored_tokens"]) for r in chosen])
        return np.array([float(r.score or 0) for r in chosen]), np.ones(len(chosen))

    @property
    def regime(self) -> str | None:
        """The RoPE the answers were given under: original, rescaled or mixed."""
        return one_regime({record.regime for record in self.records})

    @property
    def attention(self) -> str | None:
        """The attention backends that ran, such as `math`; None where no record says."""
        return ", ".join(sorted({record.attention for record in self.records} - {""})) or None

    @property
    def seconds(self) -> float:
        """Prefill and decoding, all samples."""
        return math.fsum(record.prefill_s + record.decode_s for record in self.records)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The largest peak of any sample, where it was measured."""
        return max((record.peak_memory_bytes for record in self.records), default=0) or None

    def unanswered(self) -> str | None:
        """What became of the samples without a score, such as `5 oom, 1 missing`."""
        parts = [f"{n} {status}" for status, n in self.counts.items() if n and status != "ok"]
        return ", ".join(parts) or None


def shared_documents(records: Sequence[Record]) -> list[str] | None:
    """Each record's document (its metadata's `document`), where several records share one; else None."""
    if not any("document" in record.metadata for record in records):
        return None
    documents = [canonical_json(r.metadata.get("document", ["", r.example_id])) for r in records]
    return documents if len(set(documents)) < len(documents) else None


def paired(
    cell: "CellResult", ours: Sequence[Record], base: Sequence[Record], *, n_expected: int, same_computation: bool
) -> stats.Pairs:
    """Records of the same samples, in one order, as pairs; those of one document together. Unanswered is 0."""
    method_N, weights_N = cell.values(ours)
    base_N, _ = cell.values(base)
    kind, documents = cell.metric["kind"], shared_documents(ours)
    if documents and kind != "likelihood":
        kind, (method_N, weights_N) = "graded", stats.clustered(method_N, documents)
        base_N, _ = stats.clustered(base_N, documents)
    return stats.Pairs(
        name=cell.entry["key"],
        kind=kind,
        method_N=method_N,
        base_N=base_N,
        weights_N=weights_N,
        n_expected=n_expected,
        chance=cell.metric["chance"],
        same_computation=same_computation,
        n_resamples=cell.n_resamples,
    )


def in_plan_order(manifest: Mapping[str, JSON]) -> dict[str, JSON]:
    """The manifest with models, methods and suites in the order of its cells: a JSON file may keep another one."""
    ordered = dict(manifest)
    for field in ("model", "method", "suite"):
        named = manifest[f"{field}s"]
        labels = dict.fromkeys([*(cell[field] for cell in manifest["cells"]), *named])
        ordered[f"{field}s"] = {label: named[label] for label in labels}
    methods = list(ordered["methods"])
    ordered["factors"] = sorted(manifest["factors"], key=lambda row: methods.index(row["method"]))
    return ordered


def read_cells(run: RunData) -> list[CellResult]:
    """Every planned cell, in the plan's order."""
    metrics = run.manifest["metrics"]
    n_resamples = resamples(len(run.manifest["cells"]))
    return [
        CellResult(
            entry=entry,
            metric=metrics[entry["suite"]][entry["task"]],
            records=tuple(sorted(run.records.get(entry["key"], ()), key=lambda record: record.example_id)),
            n_resamples=n_resamples,
        )
        for entry in run.manifest["cells"]
    ]


def resamples(n_cells: int) -> int:
    """Bootstrap resamples: fewer for a very large plan, whose report would take minutes; see the definitions."""
    return stats.RESAMPLES if n_cells <= MANY_CELLS else FEWER_RESAMPLES


def by_method(cells: Iterable[CellResult]) -> dict[tuple[str, str], list[CellResult]]:
    """The cells of each (model, method), in the plan's order."""
    found: dict[tuple[str, str], list[CellResult]] = {}
    for cell in cells:
        found.setdefault((cell.entry["model"], cell.entry["method"]), []).append(cell)
    return found


def named_groups(manifest: Mapping[str, JSON]) -> dict[str, list[str]]:
    """The groups of suites that the run names, and their suites; by name, since a JSON file may keep another order."""
    return {name: list(suites) for name, suites in sorted(manifest["report"].get("groups", {}).items())}


def whole_groups(manifest: Mapping[str, JSON]) -> list[str]:
    """What is judged as a whole: the suites, then the named groups of suites."""
    return [*manifest["suites"], *named_groups(manifest)]


def groups(cells: Sequence[CellResult], named: Mapping[str, Sequence[str]]) -> dict[str, list[CellResult]]:
    """The cells of each suite and, where it has several tasks, of each `suite/task`; then of each named group."""
    tasks: dict[str, dict[str, None]] = {}
    for cell in cells:
        tasks.setdefault(cell.entry["suite"], {})[cell.entry["task"]] = None
    found: dict[str, list[CellResult]] = {}
    for suite, names in tasks.items():
        ours = [cell for cell in cells if cell.entry["suite"] == suite]
        found[suite] = ours
        if len(names) > 1:
            found |= {f"{suite}/{task}": [cell for cell in ours if cell.entry["task"] == task] for task in names}
    for group, suites in named.items():
        found[group] = [cell for cell in cells if cell.entry["suite"] in suites]
    return found

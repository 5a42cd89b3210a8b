"""A run's cells as the tables need them: the plan's entry, its records, its score."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness import stats
from harness.types import JSON, STATUSES, Record, RunData


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
        """The answered samples' scores."""
        values, weights = self.values(self.answered.values())
        return stats.Sample(
            name=self.entry["key"],
            kind=self.metric["kind"],
            values_N=values,
            weights_N=weights,
            n_expected=self.n_expected,
        )

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
    return [
        CellResult(
            entry=entry,
            metric=metrics[entry["suite"]][entry["task"]],
            records=tuple(sorted(run.records.get(entry["key"], ()), key=lambda record: record.example_id)),
        )
        for entry in run.manifest["cells"]
    ]


def groups(cells: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """The cells of each suite and, where it has several tasks, of each `suite/task`; in the plan's order."""
    tasks: dict[str, dict[str, None]] = {}
    for cell in cells:
        tasks.setdefault(cell.entry["suite"], {})[cell.entry["task"]] = None
    found: dict[str, list[CellResult]] = {}
    for suite, names in tasks.items():
        ours = [cell for cell in cells if cell.entry["suite"] == suite]
        found[suite] = ours
        if len(names) > 1:
            found |= {f"{suite}/{task}": [cell for cell in ours if cell.entry["task"] == task] for task in names}
    return found

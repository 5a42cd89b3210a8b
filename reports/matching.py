"""The cells of two runs side by side, and their samples paired by id."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness import stats
from harness.paired import Scale
from harness.types import JSON, Record
from reports.cells import CellResult, paired

_SAME = 1e-4  # of a number's size: what the order of a sum may move in float32
_SAME_ABSOLUTE = 1e-3  # nats

Place = tuple[str, str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class Match:
    """A cell of base and the same cell of new, which is None where new does not plan it."""

    base: CellResult
    new: CellResult | None

    @property
    def scale(self) -> Scale:
        """How a change of it is told."""
        return "ratio" if self.base.metric["kind"] == "likelihood" else "difference"

    @cached_property
    def both(self) -> list[tuple[Record, Record]]:
        """Records of the same sample, base's first, in the order of their ids."""
        theirs = {record.example_id: record for record in self.new.records} if self.new else {}
        return [(record, theirs[record.example_id]) for record in self.base.records if record.example_id in theirs]

    @property
    def n_expected(self) -> int:
        """Samples that both runs plan; of likelihoods without those that failed in both."""
        n = min(self.base.n_expected, self.new.n_expected if self.new else self.base.n_expected)
        if self.scale == "ratio":
            n -= sum(not _answered(ours) and not _answered(theirs) for ours, theirs in self.both)
        return max(1, n)

    @cached_property
    def pairs(self) -> stats.Pairs:
        """The scores that are compared: a failed sample's is 0, a document's without a likelihood has none."""
        both = self.both
        if self.scale == "ratio":
            both = [pair for pair in both if _answered(pair[0]) and _answered(pair[1])]
        base = [ours for ours, _ in both]
        new = [ours if _unchanged(ours, theirs, self.scale) else theirs for ours, theirs in both]
        same = all(a is b for a, b in zip(base, new, strict=True))
        return paired(self.base, new, base, n_expected=self.n_expected, same_computation=same)

    @cached_property
    def n_same(self) -> int:
        """Answers that are the same to the letter."""
        return sum(_same(ours, theirs, self.scale) for ours, theirs in self.both)

    @property
    def gained(self) -> int:
        """Pairs whose score rose."""
        return int((self._moved > 0).sum())

    @property
    def lost(self) -> int:
        """Pairs whose score fell."""
        return int((self._moved < 0).sum())

    @cached_property
    def _moved(self) -> np.ndarray:
        moved = self.pairs.method_N - self.pairs.base_N
        return -moved if self.scale == "ratio" else moved

    @property
    def n_failed(self) -> tuple[int, int]:
        """Recorded samples without an answer, in base and in new."""
        sides = (self.base.records, self.new.records if self.new else ())
        return sum(not _answered(r) for r in sides[0]), sum(not _answered(r) for r in sides[1])

    @property
    def n_missing(self) -> int:
        """Samples that both plan and one has no record of."""
        n = min(self.base.n_expected, self.new.n_expected if self.new else self.base.n_expected)
        return max(0, n - len(self.both))

    @property
    def n_base_broken(self) -> int:
        """Samples that failed in base and not in new."""
        return 0 if self.scale == "ratio" else sum(not _answered(a) and _answered(b) for a, b in self.both)

    @property
    def all_failed(self) -> bool:
        """Whether new failed every sample that base answered."""
        answered = [theirs for ours, theirs in self.both if _answered(ours)]
        return len(answered) == len(self.base.answered) and not any(map(_answered, answered))

    @property
    def incomplete(self) -> bool:
        """Whether answers are missing that a rerun could give."""
        lacking = sum(_answered(a) != _answered(b) for a, b in self.both) if self.scale == "ratio" else 0
        return bool(self.n_missing or lacking or self.n_base_broken)

    def what_failed(self) -> str:
        """New's failures by status, such as `25 oom`."""
        counts = Counter(theirs.status for _, theirs in self.both if not _answered(theirs))
        return ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The cells that base answered, and the names of those that only new has."""

    matches: list[Match]
    only_in_new: list[str]


def match(base: Sequence[CellResult], new: Sequence[CellResult]) -> Matches:
    """Cells by (model, method, suite, task, length). What base never answered is nothing to compare with."""
    theirs = {_place(cell): cell for cell in new}
    ours = {_place(cell): cell for cell in base if cell.answered}
    return Matches(
        matches=[Match(base=cell, new=theirs.get(place)) for place, cell in ours.items()],
        only_in_new=[
            "/".join(map(str, place)) for place, cell in theirs.items() if place not in ours and cell.answered
        ],
    )


def _place(cell: CellResult) -> Place:
    entry: Mapping[str, Any] = cell.entry
    return entry["model"], entry["method"], entry["suite"], entry["task"], entry["seq_len"]


def _answered(record: Record) -> bool:
    return record.status == "ok" and record.score is not None


def _unchanged(ours: Record, theirs: Record, scale: Scale) -> bool:
    """Whether the outcome is the same: the same answer, or no answer twice."""
    return _same(ours, theirs, scale) or not (_answered(ours) or _answered(theirs))


def _same(ours: Record, theirs: Record, scale: Scale) -> bool:
    """Whether two answers are the same to the letter, and their measures up to rounding."""
    if not _answered(ours) or not _answered(theirs) or ours.output != theirs.output:
        return False
    return (scale == "ratio" or ours.score == theirs.score) and _close(ours.measures, theirs.measures)


def _close(ours: JSON, theirs: JSON) -> bool:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_close(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))
    if isinstance(ours, float | int) and isinstance(theirs, float | int):
        return math.isclose(ours, theirs, rel_tol=_SAME, abs_tol=_SAME_ABSOLUTE)
    return bool(ours == theirs)

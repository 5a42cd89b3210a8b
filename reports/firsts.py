"""Who is first at each length: the best method of a suite or group, and whether the others are tied with it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import paired, stats
from harness.types import JSON
from reports.cells import CellResult, number, whole_groups
from reports.retention import pairs_of

if TYPE_CHECKING:
    from reports.tables import Point, Series

MOST_COMPARED = 20  # a place, the first among them; a leaderboard of hundreds would take minutes


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A method at a place: its score, and the cells that it is the mean of."""

    method: str
    point: "Point"
    cells: tuple[CellResult, ...]

    @property
    def likelihood(self) -> bool:
        """Whether methods are compared by the ratio of perplexities."""
        return self.cells[0].metric["kind"] == "likelihood"

    def rank(self, confidence: float) -> float:
        """The score on the scale of the comparison; what has no answer counts as 0."""
        counted = [cell.estimate(confidence).counted or 0.0 for cell in self.cells]
        if self.likelihood:
            counted = [math.log(score) if score > 0 else -math.inf for score in counted]
        return round(math.fsum(counted) / len(counted), 12) if -math.inf not in counted else -math.inf


def standing_rows(
    manifest: Mapping[str, JSON], cells: Sequence[CellResult], series: Sequence["Series"]
) -> list[dict[str, Any]]:
    """A row a model, suite or group, length and method, where two methods or more have every task; see `definitions`.

    Compared with the first are the `MOST_COMPARED` best of a place. Holm's adjustment is over all methods of it: one
    that is not compared takes part with p = 1, which only makes the others' larger.
    """
    confidence = manifest["report"]["confidence"]
    rows = []
    for (model, group, seq_len), entries in _places(manifest, cells, series).items():
        if len(entries) > 1:
            place = {"model": model, "group": group, "seq_len": seq_len}
            rows += [place | row for row in _rows(entries, confidence)]
    return rows


def _places(
    manifest: Mapping[str, JSON], cells: Sequence[CellResult], series: Sequence["Series"]
) -> dict[tuple[str, str, int], list[_Entry]]:
    """Who has a score where, in the order of models, groups, lengths and methods; never scales that do not mix."""
    groups = whole_groups(manifest)
    models = list(manifest["models"])
    by_key = {cell.entry["key"]: cell for cell in cells}
    found: dict[tuple[str, str, int], list[_Entry]] = {}
    for s in series:
        members = [by_key[key] for key in s.cells]
        kinds = {cell.metric["kind"] == "likelihood" for cell in members}
        if s.group not in groups or len(kinds) > 1:
            continue
        for point in s.points:
            ours = tuple(cell for cell in members if cell.seq_len == point.seq_len)
            entry = _Entry(method=s.method, point=point, cells=ours)
            found.setdefault((s.model, s.group, point.seq_len), []).append(entry)
    order = sorted(found, key=lambda place: (models.index(place[0]), groups.index(place[1]), place[2]))
    return {place: found[place] for place in order}


def _rows(entries: Sequence[_Entry], confidence: float) -> Iterator[dict[str, Any]]:
    ranks = [entry.rank(confidence) for entry in entries]
    best = sorted(range(len(entries)), key=lambda i: -ranks[i])  # of equal scores the earlier in the plan
    answered = [i for i in best if entries[i].point.estimate.value is not None]
    leader = entries[answered[0]] if answered else None
    compared = set(answered[:MOST_COMPARED])
    rows = [_row(entry, leader, confidence, compared=i in compared) for i, entry in enumerate(entries)]
    known = [row["p_value"] for row in rows if row["p_value"] is not None]
    adjusted = iter(stats.holm(known + [1.0] * (len(entries) - 1 - len(known))))
    for row in rows:
        p_holm = next(adjusted) if row["p_value"] is not None else None
        yield row | {"p_value": number(row["p_value"]), "p_holm": number(p_holm)}


def _row(entry: _Entry, leader: _Entry | None, confidence: float, *, compared: bool) -> dict[str, Any]:
    estimate = entry.point.estimate
    row: dict[str, Any] = {
        "method": entry.method,
        "score": number(estimate.value),
        "n": entry.point.n_ok,
        "leader": leader.method if leader else None,
        "scale": "perplexity ratio" if entry.likelihood else "difference",
        **dict.fromkeys(("difference", "low", "high", "p_value", "verdict", "reason")),
    }
    if entry is leader:
        return row | {"verdict": "first"}
    if leader is None or estimate.value is None:
        return row | {"reason": estimate.reason}
    if not compared:
        return row | {"reason": f"not among the {MOST_COMPARED} best, which are compared"}
    return row | _against(entry, leader, confidence)


def _against(entry: _Entry, leader: _Entry, confidence: float) -> dict[str, Any]:
    theirs = {(cell.entry["suite"], cell.entry["task"]): cell for cell in leader.cells}
    both = [pairs_of(cell, theirs[cell.entry["suite"], cell.entry["task"]]) for cell in entry.cells]
    change = paired.change(both, confidence=confidence)
    verdict = None
    if change.high is not None:
        verdict = "behind" if round(change.high, 12) < 0 else "tied"  # the last bits of a mean decide nothing
    return {
        "n": sum(_n_pairs(pairs) for pairs in both),
        "difference": number(change.value),
        "low": number(change.low),
        "high": number(change.high),
        "p_value": None if change.value is None else min(1.0, 2 * min(change.tails)),
        "verdict": verdict,
        "reason": change.reason,
    }


def _n_pairs(pairs: stats.Pairs) -> int:
    return len(pairs.base_N) if pairs.kind == "likelihood" else round(float(pairs.weights_N.sum()))

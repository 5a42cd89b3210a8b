"""One run against another, sample by sample: what improved, what regressed, what cannot be told. The CI gate.

`compare(base, new)` decides; `reports.compare_views` prints. Every rule that decides is a sentence in `RULES`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from harness import paired, stats
from harness.errors import RequestError
from harness.paired import Change, Scale, Tails
from harness.types import JSON, RunData
from reports import matching
from reports.cells import read_cells
from reports.comparable import NOT_ALLOWED, Mismatch, MismatchKind, mismatches, notes
from reports.matching import Match

Verdict = Literal["improved", "regressed", "untouched", "inconclusive"]
Outcome = Literal["pass", "regressed", "inconclusive", "not comparable"]

MARGIN = 0.02
ERROR = 0.02  # the chance that a comparison of two equal runs calls anything regressed
EXIT_CODES: Mapping[Outcome, int] = {"pass": 0, "regressed": 1, "inconclusive": 3, "not comparable": 4}

RULES = {
    "Change": (
        "New less base on the same samples, paired by sample id: of scores as fractions; of likelihoods the ratio "
        "less 1, perplexity(base) / perplexity(new) - 1. A sum is the mean over its cells with equal weight, for "
        "likelihoods the geometric one."
    ),
    "Interval": (
        "Two-sided 95 %: paired bootstrap, stratified by cell and clustered where samples name a document; binary "
        "scores with Jeffreys' prior on the paired table. Where every answer is the same, the change is 0 for certain; "
        "numbers that differ by less than 1e-4 of their size are the same."
    ),
    "Regressed": (
        "The change is a loss of at least the margin, and the one-sided test of no change rejects: McNemar's exact "
        "test for binary scores, random signs for graded ones, Student's t of the log ratio by document for "
        "likelihoods; Holm over all rows that the test could reject, so that a comparison of two equal runs calls "
        f"anything regressed with a chance of at most {ERROR:g}. Also: every sample that base answered failed."
    ),
    "Improved": "The mirror image, and the interval's low end loses no more than the margin.",
    "Untouched": "Not improved, and the interval's low end loses no more than the margin.",
    "Inconclusive": "None of these: more samples are needed, or answers are missing.",
    "Failed samples": (
        "A sample that failed counts as 0 in both runs. Where base failed and new answered, the low end counts base "
        "as 1, so that a broken base passes nothing. A planned sample without a record, and a likelihood document "
        "without an answer, can be anything: it moves both ends. What base never answered is not judged."
    ),
    "Gate": (
        "regressed when any cell or sum is. Else inconclusive when any sum is, or any inconclusive cell that misses "
        "answers or whose own change is a loss of at least the margin or one that the test confirms. Else pass: a "
        "single cell may stay too small to judge alone."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell, or with `task` and `seq_len` None the sum over a (model, method, suite)."""

    model: str
    method: str
    suite: str
    task: str | None = None
    seq_len: int | None = None
    scale: Scale
    base_score: float | None
    new_score: float | None
    change: Change
    verdict: Verdict
    p_value: float | None  # of the loss or gain that was seen, adjusted by Holm; None where there was nothing to test
    reason: str | None
    n_cells: int
    n_pairs: int
    gained: int
    lost: int
    mcnemar: float | None  # exact, two-sided, of this row alone
    n_same: int  # answers that are the same to the letter
    n_failed: tuple[int, int]  # in base and in new
    n_missing: int
    samples_needed: int | None  # a cell, about; None where it is decided or none would decide
    blocks: bool  # keeps the gate from passing

    @property
    def name(self) -> str:
        """`model/method/suite`, of a cell also `/task/seq_len`."""
        place = [self.model, self.method, self.suite]
        return "/".join([*place, self.task, str(self.seq_len)] if self.task is not None else place)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything a comparison says."""

    outcome: Outcome
    margin: float
    base: Mapping[str, JSON]  # the manifests
    new: Mapping[str, JSON]
    cells: tuple[Row, ...] = ()
    sums: tuple[Row, ...] = ()
    only_in_new: tuple[str, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()  # that were allowed, unless the outcome is "not comparable"
    notes: tuple[str, ...] = ()
    counts: Mapping[Verdict, int] = field(default_factory=dict)  # of cells

    @property
    def exit_code(self) -> int:
        """0 pass, 1 regressed, 3 inconclusive, 4 not comparable."""
        return EXIT_CODES[self.outcome]


def compare(base: RunData, new: RunData, *, margin: float = MARGIN, allow: Sequence[MismatchKind] = ()) -> Comparison:
    """Every cell of `base` against the same cell of `new`.

    margin: the loss that is tolerated, a fraction. allow: kinds of differences that do not stop the comparison.
    Raises RequestError for a margin that is none.
    """
    if not 0 <= margin < 1:
        raise RequestError(f"--margin = {margin:g}: it should be a fraction from 0 to below 1")
    found = matching.match(read_cells(base), read_cells(new))
    both = [(m.base, m.new) for m in found.matches if m.new is not None]
    differences = mismatches(base.manifest, new.manifest, both)
    common = Comparison(
        outcome="not comparable",
        margin=margin,
        base=base.manifest,
        new=new.manifest,
        mismatches=tuple(differences),
        only_in_new=tuple(found.only_in_new),
        notes=tuple(notes(base.manifest, new.manifest, list(dict.fromkeys(cell.entry["method"] for cell, _ in both)))),
    )
    allowed = set(allow) - set(NOT_ALLOWED)
    if not both or any(difference.kind not in allowed for difference in differences):
        return common
    cells, sums = _judge(found.matches, margin)
    counts: dict[Verdict, int] = {v: sum(row.verdict == v for row in cells) for v in _VERDICTS}
    outcome = _outcome([*cells, *sums])
    return Comparison(**{**vars(common), "outcome": outcome, "cells": cells, "sums": sums, "counts": counts})


_VERDICTS: tuple[Verdict, ...] = ("regressed", "inconclusive", "improved", "untouched")


def _outcome(rows: Sequence[Row]) -> Outcome:
    if any(row.verdict == "regressed" for row in rows):
        return "regressed"
    return "inconclusive" if any(row.blocks for row in rows) else "pass"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The cells of a row and their change, before anything is judged."""

    matches: tuple[Match, ...]
    change: Change
    unchanged: bool  # no pair differs
    n_moved: int
    scores: tuple[float | None, float | None]
    discordant: stats.Discordant | None

    @property
    def testable(self) -> bool:
        """Whether the test could reject: signs of fewer items that moved never can, whatever they are.

        Which items moved says nothing about the direction, so leaving such rows out of Holm's count is fair.
        """
        if self.change.value is None or self.unchanged:
            return False
        return self.matches[0].scale == "ratio" or 0.5**self.n_moved <= ERROR


def _judge(matches: Sequence[Match], margin: float) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows of all cells, in the plan's order, and of all sums."""
    cells, sums = [], []
    for group in _groups(matches):
        measured = [_measure([match]) for match in group]
        cells += measured
        sums.append(measured[0] if len(group) == 1 else _measure(group))
    tests = list({id(m): m for m in [*cells, *sums] if m.testable}.values())
    worse = stats.holm([m.change.tails.worse for m in tests])
    better = stats.holm([m.change.tails.better for m in tests])
    adjusted = {id(m): Tails(*p) for m, p in zip(tests, zip(worse, better, strict=True), strict=True)}
    error = ERROR / max(1, len(tests))
    rows = [_row(m, adjusted.get(id(m)), margin, error, is_sum=False) for m in cells]
    return tuple(rows), tuple(_row(m, adjusted.get(id(m)), margin, error, is_sum=True) for m in sums)


def _groups(matches: Sequence[Match]) -> Iterator[list[Match]]:
    """The cells that are summed: those of a (model, method, suite) on one scale."""
    found: dict[tuple[str, str, str, str], list[Match]] = {}
    for match in matches:
        entry = match.base.entry
        found.setdefault((entry["model"], entry["method"], entry["suite"], match.scale), []).append(match)
    yield from found.values()


def _measure(matches: Sequence[Match]) -> _Measured:
    pairs = [replace(match.pairs) for match in matches]  # copies: what they draw is not kept, a large run's is GBs
    change = Change(reason="new has no record of it" if len(matches) == 1 else "new has no record of some cells")
    if all(len(p.base_N) for p in pairs):
        change = _with_broken_base(paired.change(pairs), matches)
    binary = [p for p in pairs if p.kind == "binary"]
    discordant = None
    if len(binary) == len(pairs):
        joined = ([x for p in binary for x in p.method_N], [x for p in binary for x in p.base_N])
        discordant = stats.mcnemar(*joined)
    scored = [p.scores() for p in pairs if len(p.base_N)]
    mean = [sum(side) / len(side) for side in zip(*scored, strict=True)] if len(scored) == len(pairs) else []
    return _Measured(
        matches=tuple(matches),
        change=change,
        unchanged=all(p.equal() for p in pairs),
        n_moved=sum(int((p.method_N != p.base_N).sum()) for p in pairs),
        scores=(mean[1], mean[0]) if mean else (None, None),
        discordant=discordant,
    )


def _with_broken_base(change: Change, matches: Sequence[Match]) -> Change:
    """The change with its low end where base's failed samples would have been right."""
    broken = sum(match.n_base_broken / max(1, match.n_expected) for match in matches) / len(matches)
    if change.low is None or not broken:
        return change
    return Change(**{**vars(change), "low": max(-1.0, change.low - broken)})


def _row(measured: _Measured, p: Tails | None, margin: float, error: float, *, is_sum: bool) -> Row:
    matches, change = measured.matches, measured.change
    entry = matches[0].base.entry
    all_failed = [match for match in matches if match.all_failed]
    verdict: Verdict = "regressed" if all_failed else _verdict(change, p, margin)
    incomplete = any(match.incomplete for match in matches)
    reason = change.reason
    if all_failed:
        reason = "new failed every sample that base answered: " + all_failed[0].what_failed()
    elif verdict == "inconclusive" and incomplete:
        reason = reason or "answers are missing: finish the run"
    needed = None
    n_pairs = sum(len(match.pairs.base_N) for match in matches)
    if verdict == "inconclusive" and not incomplete:
        needed = paired.samples_to_decide(change, n=n_pairs, margin=margin, error=error, unchanged=measured.unchanged)
    loses = change.value is None or change.value <= -margin or (p is not None and p.worse <= ERROR)
    p_seen = None
    if p is not None and change.value is not None:
        p_seen = p.worse if change.value < 0 else p.better
    return Row(
        model=entry["model"],
        method=entry["method"],
        suite=entry["suite"],
        task=None if is_sum else entry["task"],
        seq_len=None if is_sum else entry["seq_len"],
        scale=matches[0].scale,
        base_score=measured.scores[0],
        new_score=measured.scores[1],
        change=change,
        verdict=verdict,
        p_value=p_seen,
        reason=reason,
        n_cells=len(matches),
        n_pairs=n_pairs,
        gained=sum(match.gained for match in matches),
        lost=sum(match.lost for match in matches),
        mcnemar=None if measured.discordant is None else measured.discordant.p_value,
        n_same=sum(match.n_same for match in matches),
        n_failed=(sum(m.n_failed[0] for m in matches), sum(m.n_failed[1] for m in matches)),
        n_missing=sum(match.n_missing for match in matches),
        samples_needed=None if needed is None else -(-needed // len(matches)),
        blocks=verdict == "regressed" or (verdict == "inconclusive" and (is_sum or loses or incomplete)),
    )


def _verdict(change: Change, p: Tails | None, margin: float) -> Verdict:
    if change.value is None or change.low is None:
        return "inconclusive"
    value, low = round(change.value, 12), round(change.low, 12)
    if p is not None and p.worse <= ERROR and value <= -margin:
        return "regressed"
    if low < -margin:
        return "inconclusive"
    return "improved" if p is not None and p.better <= ERROR and value >= margin else "untouched"

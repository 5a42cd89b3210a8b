"""All arithmetic of a leaderboard: submissions to rows, ranks with ties, and what no other row beats."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import stats
from reports.cells import number
from reports.submissions import Submission
from reports.tables import Series

DEFINITIONS = {
    "Effective length of a row": (
        "The smallest effective length over the suites that are tested at the run's longest length, as [lower-bound "
        "rule, point rule]: as far as all of them reach. Likelihoods count only where there is nothing else."
    ),
    "Rank": (
        "From the best place that the intervals leave open to the worst: rows whose intervals overlap are tied. Of "
        "effective length the interval is from the lower-bound rule to the point rule. Ranks are among all rows, "
        "whatever a filter hides."
    ),
    "Seconds a sample": "Prefill and decoding at the run's longest length, the mean over its answered samples.",
    "Not beaten": (
        "On retention, or on seconds: no other row is better in one of this and effective length and at least as good "
        "in the other. Rows without an effective length do not take part."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The places that intervals leave open, from 1."""

    best: int
    worst: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """A row's score in a suite at a length, as a fraction, with its rank among all rows that have one."""

    estimate: stats.Estimate
    n_ok: int
    n_expected: int
    rank: Rank | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One method on one model in one run. Lengths are None where not even the shortest tested one passes."""

    run: int  # index of the submission
    model: str
    method: str
    is_base: bool
    effective_length: int | None
    point_rule: int | None
    shortest: int
    longest: int
    series: Mapping[str, Series]  # by suite
    retention: float | None
    retention_low: float | None
    retention_high: float | None
    retention_verdict: str | None
    seconds: float | None
    peak_memory_bytes: int | None
    scores: Mapping[tuple[str, int], Score] = field(default_factory=dict)
    rank: Rank | None = None  # by effective length
    unbeaten: tuple[str, ...] = ()  # among `retention` and `seconds`


@dataclass(frozen=True, kw_only=True)
class Board:
    """Every row, the best first, and what the pages filter by."""

    rows: tuple[Standing, ...]
    suites: Mapping[str, tuple[int, ...]]  # suite -> its lengths
    likelihoods: frozenset[str]  # suites whose scores are 1 / perplexity
    models: tuple[str, ...]
    methods: tuple[str, ...]


def board(submissions: Sequence[Submission]) -> Board:
    """The standings of runs whose definitions are equal."""
    rows = [row for i, submission in enumerate(submissions) for row in _rows(i, submission)]
    rows = _ranked(rows)
    rows.sort(key=_place)
    rows = [replace(row, scores=scores) for row, scores in zip(rows, _ranked_scores(rows), strict=True)]
    rows = _with_unbeaten(rows)
    lengths: dict[str, set[int]] = {}
    for row in rows:
        for suite, length in row.scores:
            lengths.setdefault(suite, set()).add(length)
    return Board(
        rows=tuple(rows),
        suites={suite: tuple(sorted(lengths[suite])) for suite in sorted(lengths)},
        likelihoods=frozenset(s for row in rows for s, series in row.series.items() if series.kind == "likelihood"),
        models=tuple(sorted({row.model for row in rows})),
        methods=tuple(sorted({row.method for row in rows})),
    )


def ranks(intervals: Sequence[tuple[float, float]]) -> list[Rank]:
    """The rank of each interval, higher being better: those that overlap it may stand before or behind it."""
    lows, highs = sorted(low for low, _ in intervals), sorted(high for _, high in intervals)
    n = len(intervals)
    return [Rank(best=1 + n - bisect_right(lows, high), worst=n - bisect_left(highs, low)) for low, high in intervals]


def _place(row: Standing) -> tuple[int | str, ...]:
    """Where a row is listed: the best rank first, then what reaches further, then by name."""
    best, worst = (row.rank.best, row.rank.worst) if row.rank else (0, 0)
    return best, worst, -(row.effective_length or 0), -(row.point_rule or 0), row.model, row.method, row.run


def _rows(index: int, submission: Submission) -> list[Standing]:
    analysis = submission.analysis
    manifest = analysis.manifest
    found = []
    for model in manifest["models"]:
        for method in manifest["methods"]:
            series = {s.group: s for s in analysis.series if (s.model, s.method) == (model, method)}
            suites = {suite: series[suite] for suite in manifest["suites"] if suite in series}
            if suites:
                found.append(_row(index, submission, model, method, suites))
    return found


def _row(index: int, submission: Submission, model: str, method: str, suites: Mapping[str, Series]) -> Standing:
    analysis = submission.analysis
    base = analysis.manifest["report"]["base"]
    longest = max(point.seq_len for s in suites.values() for point in s.points)
    far = [s for s in suites.values() if s.points[-1].seq_len == longest]
    far = [s for s in far if s.kind != "likelihood"] or far
    kept = [row for row in analysis.retention if (row["model"], row["method"]) == (model, method)]
    overall = next((row for row in kept if row["group"] == "all"), None)
    cells = [c for c in analysis.cells if (c.entry["model"], c.entry["method"]) == (model, method)]
    answered = [record for cell in cells if cell.seq_len == longest for record in cell.answered.values()]
    is_base = method == base
    kept_share: list[float | None] = [1.0] * 3 if is_base else [None] * 3
    if overall and not is_base:
        kept_share = [overall["retention"], overall["low"], overall["high"]]
    return Standing(
        run=index,
        model=model,
        method=method,
        is_base=is_base,
        effective_length=_smallest([s.effective_length for s in far]),
        point_rule=_smallest([s.point_rule for s in far]),
        shortest=min(s.points[0].seq_len for s in far),
        longest=longest,
        series=suites,
        retention=kept_share[0],
        retention_low=kept_share[1],
        retention_high=kept_share[2],
        retention_verdict=overall["verdict"] if overall and not is_base else None,
        seconds=number(sum(r.prefill_s + r.decode_s for r in answered) / len(answered)) if answered else None,
        peak_memory_bytes=max((cell.peak_memory_bytes or 0 for cell in cells), default=0) or None,
        scores={
            (suite, point.seq_len): Score(estimate=point.estimate, n_ok=point.n_ok, n_expected=point.n_expected)
            for suite, s in suites.items()
            for point in s.points
        },
    )


def _smallest(lengths: Sequence[int | None]) -> int | None:
    known = [length for length in lengths if length is not None]
    return min(known) if len(known) == len(lengths) else None


def _ranked(rows: Sequence[Standing]) -> list[Standing]:
    intervals = [(row.effective_length or 0, max(row.point_rule or 0, row.effective_length or 0)) for row in rows]
    return [replace(row, rank=rank) for row, rank in zip(rows, ranks(intervals), strict=True)]


def _ranked_scores(rows: Sequence[Standing]) -> list[dict[tuple[str, int], Score]]:
    found: list[dict[tuple[str, int], Score]] = [dict(row.scores) for row in rows]
    for place in dict.fromkeys(place for scores in found for place in scores):
        intervals = {}
        for i, scores in enumerate(found):
            estimate = scores[place].estimate if place in scores else None
            if estimate is not None and estimate.low is not None and estimate.high is not None:
                intervals[i] = (estimate.low, estimate.high)
        for i, rank in zip(intervals, ranks(list(intervals.values())), strict=True):
            found[i][place] = replace(found[i][place], rank=rank)
    return found


def _with_unbeaten(rows: Sequence[Standing]) -> list[Standing]:
    """Marks the rows on either Pareto front: effective length against retention, and against seconds."""
    kept = _front([(row.effective_length, row.retention) for row in rows])
    quick = _front([(row.effective_length, None if row.seconds is None else -row.seconds) for row in rows])
    marked = []
    for i, row in enumerate(rows):
        names = [name for name, front in (("retention", kept), ("seconds", quick)) if i in front]
        marked.append(replace(row, unbeaten=tuple(names)))
    return marked


def _front(points: Sequence[tuple[int | None, float | None]]) -> set[int]:
    """The points that no other one beats, more being better in both; one without either value is on no front."""
    known = [(i, x, y) for i, (x, y) in enumerate(points) if x is not None and y is not None]
    found: set[int] = set()
    best = None
    known.sort(key=lambda point: (-point[1], -point[2]))
    for i, x, y in known:
        if best is None or y > best[1] or (x, y) == best:
            found.add(i)
            best = (x, y)
    return found

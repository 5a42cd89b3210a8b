"""Intervals and tests: Wilson, bootstrap, the paired ratio, non-inferiority, McNemar, Holm, effective length.

Shape letters: N items of a cell (documents, for likelihood), R resamples, K columns that are resampled together.

What was planned and not answered never leaves the denominator: an interval's low end counts it as 0, its high end
as 1. The bootstrap's generator is seeded by the name of what is resampled, so equal inputs give equal numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from harness.types import MetricKind, content_hash

FloatArray = NDArray[np.float64]
Verdict = Literal["retained", "lost", "undecided"]

RESAMPLES = 5_000
CONFIDENCE = 0.95
_CHUNK = 4_000_000  # indices drawn at once: bounds the bootstrap's memory


class Interval(NamedTuple):
    """Two ends; arrays where the inputs were arrays."""

    low: Any
    high: Any


def wilson(successes: ArrayLike, n: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Two-sided Wilson score interval of a proportion; a count may be fractional. Source: Wilson 1927."""
    z = float(special.ndtri((1 + confidence) / 2))
    if isinstance(successes, int | float) and isinstance(n, int | float):  # a large report asks for 100,000 of them
        spread = math.sqrt(max(successes * (n - successes) / n, 0.0) + z * z / 4)
        ends = ((successes + z * z / 2 + sign * z * spread) / (n + z * z) for sign in (-1, 1))
        return Interval(*(min(1.0, max(0.0, end)) for end in ends))
    k, n = np.asarray(successes, float), np.asarray(n, float)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(np.maximum(k * (n - k) / n, 0) + z * z / 4)
    return Interval(np.clip(centre - half, 0, 1)[()], np.clip(centre + half, 0, 1)[()])


def wilson_lower(successes: ArrayLike, n: ArrayLike, *, confidence: float = CONFIDENCE) -> Any:
    """One-sided lower bound: the low end of the two-sided interval with twice the error."""
    return wilson(successes, n, confidence=2 * confidence - 1).low


def samples_to_pass(threshold: float, *, confidence: float = CONFIDENCE) -> int | None:
    """The fewest samples whose perfect score has a lower bound of at least the threshold; None from 1 up."""
    if threshold >= 1:
        return None
    z = special.ndtri(confidence)
    return max(1, math.ceil(z * z * threshold / (1 - threshold)))


def resample_sums(columns_NK: ArrayLike, *, name: str, n_resamples: int = RESAMPLES) -> FloatArray:
    """Column sums of `n_resamples` draws of N rows with replacement, rows kept whole: an array R by K."""
    columns_NK = np.asarray(columns_NK, float)
    n = len(columns_NK)
    rng = generator(name)
    dtype = np.uint16 if n < 2**16 else np.uint32
    constant_K = np.ptp(columns_NK, axis=0) == 0  # such a column has one sum
    sums_RK = np.tile(np.where(constant_K, n * columns_NK[0], 0), (n_resamples, 1))
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        index_NR = rng.integers(n, size=(n, stop - start), dtype=dtype)
        for k in np.flatnonzero(~constant_K):
            column_N, sums_R = np.ascontiguousarray(columns_NK[:, k]), np.zeros(stop - start)
            for index_R in index_NR:  # a draw of every resample at a time: far quicker than summing short rows
                sums_R += column_N.take(index_R)
            sums_RK[start:stop, k] = sums_R
    return sums_RK


def clustered(values_N: ArrayLike, clusters_N: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Sums and sizes of the clusters: as a sample's values and weights, they are resampled whole."""
    _, index_N = np.unique(np.asarray(clusters_N), return_inverse=True)
    sums = np.bincount(index_N, np.asarray(values_N, float)).astype(float)
    return sums, np.bincount(index_N).astype(float)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The answered items of one cell, and how many were planned.

    The score is sum(values) / sum(weights): scores with weight 1, or a cluster's sum and size; for `likelihood`
    it is exp of minus that, values being negative log-likelihoods (nats) and weights tokens.
    """

    name: str
    kind: MetricKind
    values_N: FloatArray
    weights_N: FloatArray
    n_expected: int
    n_resamples: int = RESAMPLES

    @property
    def n_ok(self) -> int:
        """Answered items."""
        return len(self.values_N) if self.kind == "likelihood" else round(float(self.weights_N.sum()))

    @property
    def answered(self) -> float:
        """Answered over planned items."""
        return min(1.0, self.n_ok / self.n_expected)

    @property
    def score(self) -> float:
        """The score of the answered items."""
        return float(_score(self.kind, self.values_N.sum(), self.weights_N.sum()))

    @cached_property
    def draws_R(self) -> FloatArray:
        """Resampled scores; where the items are too alike to be resampled, Jeffreys' Beta of their mean.

        A variable in [0, 1] varies at most as much as a binary one with its mean, so the Beta is never too narrow.
        """
        n, ratios_N = len(self.values_N), self.values_N / self.weights_N
        if self.kind == "binary" or (self.kind == "graded" and np.ptp(ratios_N) == 0):
            rng = generator(self.name)
            return rng.beta(n * self.score + 0.5, n * (1 - self.score) + 0.5, self.n_resamples)
        columns_NK = np.stack([self.values_N, self.weights_N], axis=1)
        sums_RK = resample_sums(columns_NK, name=self.name, n_resamples=self.n_resamples)
        return _score(self.kind, sums_RK[:, 0], sums_RK[:, 1])


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score and how sure it is. None where it cannot be known, and `reason` says why.

    value: the answered items' score. counted: the same with every unanswered item as 0.
    low, high: two-sided. lower_bound: one-sided.
    """

    value: float | None = None
    counted: float | None = None
    low: float | None = None
    high: float | None = None
    lower_bound: float | None = None
    reason: str | None = None


def mean(samples: Sequence[Sample], *, confidence: float = CONFIDENCE) -> Estimate:
    """The equal-weight mean of one or several cells' scores.

    All binary: Wilson with the effective sample size 1 / sum(w^2 / n), which is pooling where n is equal.
    Else a bootstrap stratified by cell, percentile, expanded for small n.
    """
    if not all(sample.n_ok for sample in samples):
        return Estimate(reason="no sample was answered")
    values = np.array([sample.score for sample in samples])
    answered = np.array([sample.answered for sample in samples])
    value, counted = float(values.mean()), float((values * answered).mean())
    unanswered = float(1 - answered.mean())
    known = Estimate(value=value, counted=counted)
    if all(sample.kind == "binary" for sample in samples):
        n = len(samples) ** 2 / sum(1 / sample.n_expected for sample in samples)
        low = float(wilson(counted * n, n, confidence=confidence).low)
        high = float(wilson((counted + unanswered) * n, n, confidence=confidence).high)
        bound = float(wilson_lower(counted * n, n, confidence=confidence))
    elif any(sample.kind == "likelihood" and len(sample.values_N) == 1 for sample in samples):
        return Estimate(value=value, counted=counted, reason="one document gives no interval")
    else:
        draws_R = np.mean([s.answered * s.draws_R for s in samples], axis=0)
        sizes = [len(s.values_N) for s in samples if s.kind != "binary"]
        alpha = 1 - confidence
        outer, inner = percentile_level(alpha / 2, sizes), percentile_level(alpha, sizes)
        low, bound, high = quantiles(draws_R, [outer, inner, 1 - outer])
        high += unanswered
    return Estimate(
        value=known.value,
        counted=known.counted,
        low=min(low, counted),
        high=max(high, counted + unanswered),
        lower_bound=min(bound, counted),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The items of one cell that both a method and the base method answered, in one order.

    Values and weights as in `Sample`. same_computation: both sides ran the same numbers through the same model,
    so equal scores are equal in the population too.
    """

    name: str
    kind: MetricKind
    method_N: FloatArray
    base_N: FloatArray
    weights_N: FloatArray
    n_expected: int
    chance: float = 0.0
    same_computation: bool = False
    n_resamples: int = RESAMPLES

    @property
    def answered(self) -> float:
        """Pairs over planned items."""
        n = len(self.base_N) if self.kind == "likelihood" else round(float(self.weights_N.sum()))
        return min(1.0, n / self.n_expected)

    def scores(self) -> tuple[float, float]:
        """The method's and the base method's score over the pairs."""
        total = self.weights_N.sum()
        return float(_score(self.kind, self.method_N.sum(), total)), float(_score(self.kind, self.base_N.sum(), total))

    def equal(self) -> bool:
        """Whether no item tells the two apart."""
        return np.array_equal(self.method_N, self.base_N)

    def draws(self, prior: float) -> tuple[FloatArray, FloatArray]:
        """Resampled scores of both, items drawn jointly.

        prior: pseudo-observations at each corner of the 2 x 2 table (Jeffreys: 1/2 over all cells of a mean).
        They stop a sample without discordant pairs from passing for certainty.
        """
        if prior not in self._drawn:
            self._drawn[prior] = self._draw(prior)
        return self._drawn[prior]

    @cached_property
    def _drawn(self) -> dict[float, tuple[FloatArray, FloatArray]]:
        """Draws by prior: a suite's are used again for the mean over suites."""
        return {}

    def _draw(self, prior: float) -> tuple[FloatArray, FloatArray]:
        if self.kind == "binary" or (self.kind == "graded" and self.equal()):
            m, b = self.method_N / self.weights_N, self.base_N / self.weights_N
            rng = generator(self.name)
            if self.same_computation and self.equal():
                draws_R = rng.beta(b.sum() + prior, (1 - b).sum() + prior, self.n_resamples)
                return draws_R, draws_R
            counts = np.array([m @ b, m @ (1 - b), (1 - m) @ b, (1 - m) @ (1 - b)]) + prior
            table = rng.dirichlet(counts, self.n_resamples)
            return table[:, 0] + table[:, 1], table[:, 0] + table[:, 2]
        columns_NK = np.stack([self.method_N, self.base_N, self.weights_N], axis=1)
        sums_RK = resample_sums(columns_NK, name=self.name, n_resamples=self.n_resamples)
        return _score(self.kind, sums_RK[:, 0], sums_RK[:, 2]), _score(self.kind, sums_RK[:, 1], sums_RK[:, 2])


@dataclass(frozen=True, kw_only=True)
class Retention:
    """A method's score over the base method's on the same items; None where it cannot be known, with the reason."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    chance_corrected: float | None = None
    verdict: Verdict = "undecided"
    reason: str | None = None


def retention(suites: Sequence[Sequence[Pairs]], *, margin: float, confidence: float = CONFIDENCE) -> Retention:
    """The equal-weight mean over suites of (mean score of the method / mean score of the base) over a suite's cells.

    Paired bootstrap of the ratio, stratified by cell; an unanswered pair is 0 against 1 at the low end and 1
    against 0 at the high end.
    """
    if not suites or not all(suites) or not all(len(pairs.base_N) for cells in suites for pairs in cells):
        return Retention(reason="no sample was answered by both this method and the base method")
    ratios, corrected = zip(*(_ratio(cells) for cells in suites), strict=True)
    if None in ratios:
        return Retention(reason="the base method scores 0")
    value = float(np.mean(ratios))
    above_chance = None if None in corrected else float(np.mean(corrected))
    reason = "the base method scores no better than chance" if above_chance is None else None
    cells = [pairs for suite in suites for pairs in suite]
    if any(c.kind == "likelihood" and len(c.base_N) == 1 and not (c.same_computation and c.equal()) for c in cells):
        return Retention(value=value, chance_corrected=above_chance, reason="one document gives no interval")
    draws = [_ratio_draws(suite) for suite in suites]
    level = percentile_level((1 - confidence) / 2, [len(c.base_N) for c in cells if c.kind != "binary"])
    low = min(value, float(np.quantile(np.mean([d.low for d in draws], axis=0), level)))
    high = max(value, float(np.quantile(np.mean([d.high for d in draws], axis=0), 1 - level, method="higher")))
    verdict = non_inferiority(low, high, margin=margin)
    return Retention(value=value, low=low, high=high, chance_corrected=above_chance, verdict=verdict, reason=reason)


def non_inferiority(low: float, high: float, *, margin: float) -> Verdict:
    """`retained`: the whole interval is at or above the margin; `lost`: all of it below; else `undecided`."""
    if low >= margin:
        return "retained"
    return "lost" if high < margin else "undecided"


def above_chance(score: float, chance: float) -> float:
    """The score on a scale where blind guessing is 0 and perfect is 1."""
    return (score - chance) / (1 - chance)


class Discordant(NamedTuple):
    """Items only one of two methods got right, and the exact two-sided p-value of their imbalance."""

    gained: int
    lost: int
    p_value: float


def mcnemar(method_N: ArrayLike, base_N: ArrayLike) -> Discordant:
    """Exact McNemar test of paired binary scores; p is 1 without discordant pairs. Source: McNemar 1947."""
    method_N, base_N = np.asarray(method_N) > 0, np.asarray(base_N) > 0
    gained, lost = int((method_N & ~base_N).sum()), int((base_N & ~method_N).sum())
    n = gained + lost
    if n == 0:
        return Discordant(gained, lost, 1.0)
    from scipy.stats import binomtest  # as slow to import as all else that most runs need for their scores

    return Discordant(gained, lost, float(binomtest(gained, n).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given: family-wise error by step-down. Source: Holm 1979."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values, float)[order] * factors))
    return [float(p) for p in adjusted]


def effective_length(passes: Sequence[tuple[int, bool]]) -> int | None:
    """The largest tested length that passes and below which every tested length passes; None if the shortest fails.

    passes: (length, whether it passes). A fixed-sequence test, so several lengths need no correction.
    """
    reached = None
    for length, passed in sorted(passes):
        if not passed:
            break
        reached = length
    return reached


def generator(name: str) -> np.random.Generator:
    """The random numbers that belong to a name."""
    return np.random.default_rng(int(content_hash(name)[:16], 16))


def _score(kind: MetricKind, values: Any, weights: Any) -> Any:
    return np.exp(-values / weights) if kind == "likelihood" else values / weights


def quantiles(draws_R: FloatArray, levels: Sequence[float]) -> list[float]:
    """Quantiles by linear interpolation: numpy's, without its overhead of five times the work."""
    places = np.asarray(levels) * (len(draws_R) - 1)
    below = np.floor(places).astype(int)
    above = np.minimum(below + 1, len(draws_R) - 1)
    ordered_R = np.partition(draws_R, np.unique([below, above]))
    found = ordered_R[below] + (places - below) * (ordered_R[above] - ordered_R[below])
    return [float(x) for x in found]


def percentile_level(alpha: float, sizes: Sequence[int]) -> float:
    """The percentile that stands for `alpha`: further out the fewer items were resampled.

    The bootstrap's spread is short by sqrt((n - 1) / n), and a normal tail by Student's t.
    Source: Hesterberg 2015, arXiv:1411.5279, section 5.3 (expanded percentile).
    """
    spare = sum(size - 1 for size in sizes)
    if not spare:
        return alpha
    smallest = max(2, min(sizes))
    return float(special.ndtr(math.sqrt(smallest / (smallest - 1)) * special.stdtrit(spare, alpha)))


def _ratio(cells: Sequence[Pairs]) -> tuple[float | None, float | None]:
    """Method over base, raw and corrected for chance; None where the base has nothing to keep."""
    method, base = (float(np.mean(side)) for side in zip(*(c.scores() for c in cells), strict=True))
    chance = float(np.mean([c.chance for c in cells]))
    corrected = above_chance(method, chance) / above_chance(base, chance) if base > chance else None
    return (method / base if base > 0 else None), corrected


def _ratio_draws(cells: Sequence[Pairs]) -> Interval:
    """Resampled ratios of one suite with the unanswered pairs against the method, and for it."""
    draws = [pairs.draws(prior=0.5 / len(cells)) for pairs in cells]
    method_R = np.mean([c.answered * m for c, (m, _) in zip(cells, draws, strict=True)], axis=0)
    base_R = np.mean([c.answered * b for c, (_, b) in zip(cells, draws, strict=True)], axis=0)
    unanswered = 1 - float(np.mean([c.answered for c in cells]))
    with np.errstate(divide="ignore", invalid="ignore"):
        low_R = np.where(base_R + unanswered > 0, method_R / (base_R + unanswered), 0)
        high_R = np.where(base_R > 0, (method_R + unanswered) / base_R, np.inf)
    return Interval(low_R, high_R)

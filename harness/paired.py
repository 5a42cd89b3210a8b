"""Two measurements of the same items: how much the second differs, how sure that is, and what would decide it.

Shape letters: N items (or clusters of items) of a cell, R resamples.

The scale of a change: binary and graded scores differ by `new - base`; likelihoods by their ratio less 1, which is
perplexity(base) / perplexity(new) - 1, because a difference of 1 / perplexity means nothing by itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.stats import CONFIDENCE, Pairs, generator, percentile_level

Scale = Literal["difference", "ratio"]

_FLIPS = 20_000
_MOST_SAMPLES = 10_000_000  # more than this is no number of samples anybody runs


class Tails(NamedTuple):
    """One-sided p-values: that the new scores are worse, and that they are better; arrays where the inputs were."""

    worse: Any
    better: Any


NO_CHANGE = Tails(1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Change:
    """The equal-weight mean change of one or several cells; None where it cannot be known, and `reason` says why.

    low, high: two-sided interval; items without both answers are -1 at the low end and +1 at the high end.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    tails: Tails = NO_CHANGE
    reason: str | None = None


def change(cells: Sequence[Pairs], *, confidence: float = CONFIDENCE) -> Change:
    """How the `method` side differs from the `base` side, cells of one scale with equal weights.

    Interval: paired bootstrap stratified by cell; binary scores by the Dirichlet posterior of their 2 x 2 table with
    Jeffreys' prior, so that a small sample without a difference is no proof of none. `tails`: see `tails`.
    """
    if not cells or not all(len(cell.base_N) for cell in cells):
        return Change(reason="no sample was answered in both runs")
    ratio = cells[0].kind == "likelihood"
    if ratio and not all(np.isfinite(cell.scores()).all() and min(cell.scores()) > 0 for cell in cells):
        return Change(reason="a likelihood of 0 has no ratio")
    value = float(_on_scale(np.mean([_moved(*cell.scores(), ratio=ratio) for cell in cells]), ratio=ratio))
    certain = [cell.same_computation and cell.equal() for cell in cells]
    if all(certain):
        low = high = value
    elif ratio and any(len(c.base_N) == 1 and not sure for c, sure in zip(cells, certain, strict=True)):
        return Change(value=value, reason="one document gives no interval")
    else:
        draws = [_moved(*cell.draws(prior=0.5 / len(cells)), ratio=ratio) for cell in cells]
        draws_R = _on_scale(np.mean(draws, axis=0), ratio=ratio)
        level = percentile_level((1 - confidence) / 2, [len(c.base_N) for c in cells if c.kind != "binary"])
        low, high = np.quantile(draws_R, [level, 1 - level]).tolist()
    answered = float(np.mean([cell.answered for cell in cells]))
    low, high = (answered * min(low, value) - (1 - answered), answered * max(high, value) + (1 - answered))
    return Change(value=value, low=low, high=high, tails=tails(cells))


def tails(cells: Sequence[Pairs]) -> Tails:
    """One-sided p-values of no change: by flipping signs, for binary scores McNemar's exact test.

    Likelihoods: Student's t of the log ratio by document, since a few long documents hold many tokens.
    """
    if cells[0].kind == "likelihood":
        return _t_tails(cells)
    moved = [(cell.method_N - cell.base_N) / cell.weights_N.sum() for cell in cells]
    return flip_tails(np.concatenate(moved), name="+".join(cell.name for cell in cells))


def flip_tails(changes_N: ArrayLike, *, name: str) -> Tails:
    """One-sided p-values of a sum under the hypothesis that each item's change could as well have had the other sign.

    Exact where all sizes are equal (a binomial); else by 20,000 random flips, and beyond what these can show by
    Hoeffding's bound, which is never too small.
    """
    moved_N = np.asarray(changes_N, float)
    moved_N = moved_N[moved_N != 0]
    if not len(moved_N):
        return NO_CHANGE
    sizes_N, total = np.abs(moved_N), float(moved_N.sum())
    if sizes_N.max() - sizes_N.min() <= 1e-9 * sizes_N.max():
        return sign_tails(int((moved_N > 0).sum()), int((moved_N < 0).sum()))
    t = total / float(np.sqrt((sizes_N**2).sum()))
    if abs(t) < 1:  # far from deciding anything
        return Tails(float(special.ndtr(t)), float(special.ndtr(-t)))
    bound = math.exp(-t * t / 2)
    if bound < 1 / _FLIPS:
        return Tails(bound, 1.0) if t < 0 else Tails(1.0, bound)
    sums_R = _flipped_sums(sizes_N, name)
    near = 1e-9 * sizes_N.sum()
    below, above = int((sums_R <= total + near).sum()), int((sums_R >= total - near).sum())
    return Tails((below + 1) / (_FLIPS + 1), (above + 1) / (_FLIPS + 1))


def sign_tails(gained: Any, lost: Any) -> Tails:
    """McNemar's exact test, one-sided; arrays where the counts are arrays. Source: McNemar 1947."""
    from scipy.stats import binom  # slow to import, and `harness.stats` is needed without it

    n = gained + lost
    return Tails(binom.cdf(gained, n, 0.5)[()], binom.sf(gained - 1, n, 0.5)[()])


def samples_to_decide(found: Change, *, n: int, margin: float, error: float, unchanged: bool) -> int | None:
    """About how many samples would make a change a loss beyond the margin, or exclude one; None where none would.

    error: the one-sided level at which a loss is called. unchanged: no item differs, so that the interval shrinks
    with n; else with its root.
    """
    if found.value is None or found.low is None or found.high is None:
        return None
    beyond = found.value <= -margin
    half_width = found.value - found.low
    if beyond:
        half_width = (found.high - found.low) / 2 * special.ndtri(error) / special.ndtri((1 - CONFIDENCE) / 2)
    gap = -found.value if beyond else found.value + margin
    needed = n * (half_width / gap) ** (1 if unchanged else 2) if gap > 0 else math.inf
    return math.ceil(needed) if n < needed < _MOST_SAMPLES else None


def _moved(method: Any, base: Any, *, ratio: bool) -> Any:
    """The change on the scale on which it is averaged: logarithms for a ratio."""
    return np.log(method) - np.log(base) if ratio else method - base


def _on_scale(moved: Any, *, ratio: bool) -> Any:
    return np.expm1(moved) if ratio else moved


def _t_tails(cells: Sequence[Pairs]) -> Tails:
    log_ratio, variance, spare = 0.0, 0.0, 0
    for cell in cells:
        total, n = cell.weights_N.sum(), len(cell.base_N)
        moved_N = (cell.base_N - cell.method_N) / total  # values are negative log-likelihoods
        log_ratio += float(moved_N.sum())
        residuals_N = moved_N - moved_N.sum() * cell.weights_N / total
        variance += n / max(1, n - 1) * float((residuals_N**2).sum())
        spare += n - 1
    if not log_ratio or not spare:
        return NO_CHANGE
    t = log_ratio / math.sqrt(variance) if variance else math.copysign(math.inf, log_ratio)
    return Tails(float(special.stdtr(spare, t)), float(special.stdtr(spare, -t)))


def _flipped_sums(sizes_N: np.ndarray, name: str) -> np.ndarray:
    rng, chunks = generator(name), []
    step = max(1, 4_000_000 // len(sizes_N))
    for start in range(0, _FLIPS, step):
        n_rows = min(step, _FLIPS - start)
        signs_RN = rng.integers(0, 2, size=(n_rows, len(sizes_N)), dtype=np.int8)
        chunks.append(2.0 * (signs_RN @ sizes_N) - sizes_N.sum())
    return np.concatenate(chunks)

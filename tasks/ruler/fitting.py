"""How many units of context fill a length: estimated once, then corrected once for each sample."""

import math
from collections.abc import Callable
from typing import NamedTuple

from tasks.ruler.sample import Sample

_PROBE_TOKENS = 1024  # the first estimate is made on at most so many
_AIM = 0.005  # of the length: room for what differs between samples
_APART = 0.1  # of a size
_NEAR = 0.02  # of the length: an estimate this near is not made again
_ENOUGH = 0.015  # of the length: a sample this near is left as it is
_ROOM = 0.003  # of the length, left by a correction: counts are rounded, tokens meet
_SLACK = 0.05  # of a correction: what an estimate along tokens a unit misses
LOWEST = 0.95  # of the length: after two tries a sample this full is kept
_MOST_TRIES = 8
_MOST_GROWTH = 1.5  # of the estimated size

Fitted = tuple[Sample, list[int]]


class Scale(NamedTuple):
    """A task's size at one length, and its tokens near there: `fixed` + `per_unit` for each unit past the smallest."""

    size: int
    smallest: int
    fixed: float
    per_unit: float

    @property
    def n_drawn(self) -> int:
        """Units to draw for a sample, so that it can still grow; more are never needed."""
        return math.ceil(_MOST_GROWTH * self.size) + 16


def calibrate(count: Callable[[int], int], *, budget: int, smallest: int) -> Scale:
    """The size at which `count`, the tokens of a prompt of a size, comes near a budget; by secants from a short one."""
    aim = round(budget * (1 - _AIM))
    last, n_last = smallest, count(smallest)
    size, scale = smallest + 16, Scale(smallest, smallest, n_last, 1.0)
    for target in [_PROBE_TOKENS] * (n_last < _PROBE_TOKENS < aim) + [aim] * 3:
        n = count(size)
        # The tokens of two near sizes differ by chance as much as by size.
        per_unit = max((n - n_last) / (size - last), 0.1) if abs(size - last) > _APART * size else scale.per_unit
        aimed = max(size + math.floor((target - n) / per_unit), smallest)
        scale = Scale(aimed, smallest, n - per_unit * (size - smallest), per_unit)
        if aimed in (size, last) or abs(n - aim) <= _NEAR * aim:
            break
        last, n_last, size = size, n, aimed
    return scale


def fit(build: Callable[[int], Fitted], scale: Scale, *, budget: int, seq_len: int) -> Fitted | None:
    """The fullest of at most a few tries within the budget of prompt tokens; None where the smallest is too long.

    build: the sample of a size, and its prompt tokens. Two tries do, but for rare samples.
    """
    size, best, tried = scale.size, None, set()
    for n_tries in range(1, _MOST_TRIES + 1):
        tried.add(size)
        sample, ids = build(size)
        spare = budget - len(ids)
        if spare >= 0 and (best is None or len(ids) > len(best[1])):
            best = sample, ids
        missing = seq_len if best is None else budget - len(best[1])
        if missing <= max(_ENOUGH * seq_len, scale.per_unit):
            break
        if n_tries > 1 and missing <= (1 - LOWEST) * seq_len:
            break
        size = _next_size(scale, size, len(ids), spare - max(_ROOM * seq_len, 2))
        if size in tried:
            if best is not None or size == scale.smallest:
                break
            size = max(min(tried) - 1, scale.smallest)
    return best


def _next_size(scale: Scale, size: int, n_tokens: int, spare: float) -> int:
    """Along the task's tokens a unit or the sample's own, whichever keeps the sample shorter."""
    n_units = size - scale.smallest
    own = max((n_tokens - scale.fixed) / n_units, 0.1) if n_units > 16 else scale.per_unit
    per_unit = max(own, scale.per_unit) if spare > 0 else min(own, scale.per_unit)
    step = math.floor((spare - _SLACK * abs(spare)) / per_unit)
    return min(max(size + step, scale.smallest), scale.n_drawn)

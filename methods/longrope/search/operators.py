"""The published searches' operators on a list of rescale factors, pure but for the generator they draw from.

Shape letters: P rotary pairs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from methods.base import FloatArray
from methods.rope import ntk_tie

# Values are rounded to this many decimals, so that a step added many times stays on its grid.
_DECIMALS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Box:
    """Where the factors may lie.

    low_P, high_P: the least and the greatest of each pair. first: the first searched pair; what lies below follows.
    step: of the grid that a new value is drawn from. strict: neighbours must differ.
    last_step: the last factor exceeds its neighbour by at most so much.
    """

    low_P: FloatArray
    high_P: FloatArray
    first: int = 0
    step: float = 0.01
    strict: bool = False
    last_step: float = math.inf

    @classmethod
    def flat(
        cls,
        n_pairs: int,
        low: float,
        high: float,
        *,
        first: int = 0,
        strict: bool = False,
        last_step: float = math.inf,
    ) -> "Box":
        """The same bounds for every pair."""
        low_P, high_P = np.full(n_pairs, low), np.full(n_pairs, high)
        return cls(low_P=low_P, high_P=high_P, first=first, strict=strict, last_step=last_step)

    def holds(self, factors_P: FloatArray) -> bool:
        """Whether the searched factors are in order and within their bounds."""
        searched_P = factors_P[self.first :]
        rises_P = np.diff(searched_P)
        ordered = bool(np.all(rises_P > 0 if self.strict else rises_P >= 0))
        inside = (searched_P >= self.low_P[self.first :]) & (searched_P <= self.high_P[self.first :])
        return ordered and bool(np.all(inside))

    def bring_in(self, factors_P: FloatArray) -> FloatArray:
        """The searched factors cut off at their bounds; order is kept where the bounds are in order."""
        brought_P = factors_P.copy()
        brought_P[self.first :] = np.clip(factors_P, self.low_P, self.high_P)[self.first :]
        return brought_P


def mutate(factors_P: FloatArray, box: Box, generator: np.random.Generator, *, probability: float) -> FloatArray:
    """Each searched factor, with the probability, takes a value of the grid between its neighbours.

    From the lowest pair up, so a factor's lower neighbour may be new. Order and bounds hold if they held before.
    Source: arXiv:2502.20082 algorithm 2; the grid microsoft/LongRoPE@c9e56aa evolution/algorithms/dim_mono.py.
    """
    mutated_P = factors_P.copy()
    last = len(factors_P) - 1
    margin = box.step if box.strict else 0.0
    for i in box.first + np.flatnonzero(generator.random(len(factors_P) - box.first) < probability):
        low, high = box.low_P[i], box.high_P[i]
        if i > box.first:
            low = max(low, mutated_P[i - 1] + margin)
            if i == last:
                high = min(high, mutated_P[i - 1] + box.last_step)
        if i < last:
            high = min(high, mutated_P[i + 1] - margin)
        n_steps = math.floor((high - low) / box.step + 1e-9)
        if n_steps >= 1:
            value = round(low + box.step * int(generator.integers(0, n_steps + 1)), _DECIMALS)
            mutated_P[i] = min(max(value, low), high)
    return mutated_P


def cross(
    first_P: FloatArray, second_P: FloatArray, box: Box, generator: np.random.Generator, *, probability: float
) -> Iterator[FloatArray]:
    """Children of the first list, one after another: each takes over one more factor of the second.

    A factor within its bounds is taken with the probability, from the lowest pair up. Children that are out of order
    are left out, but a later factor may put them in order. The papers do not describe a crossover.
    Source: microsoft/LongRoPE@c9e56aa evolution/algorithms/dim_mono.py.
    """
    child_P = first_P.copy()
    within_P = (second_P >= box.low_P) & (second_P <= box.high_P)
    for i in box.first + np.flatnonzero(generator.random(len(first_P) - box.first) < probability):
        if not within_P[i]:
            continue
        child_P[i] = second_P[i]
        if box.holds(child_P) and not np.array_equal(child_P, first_P):
            yield child_P.copy()


def tie_low_pairs(factors_P: FloatArray, critical_pair: int) -> FloatArray:
    """NTK below the critical pair, reaching its factor there. Source: arXiv:2502.20082 algorithms 1 and 2."""
    tied_P = factors_P.copy()
    tied_P[:critical_pair] = ntk_tie(factors_P[critical_pair], critical_pair, len(factors_P))[:critical_pair]
    return tied_P


def draw_start_tokens(
    current: int, choices: Sequence[int], generator: np.random.Generator, *, probability: float
) -> int:
    """With the probability, another number of start tokens. Source: arXiv:2402.13753 table 4."""
    others = [choice for choice in choices if choice != current]
    if generator.random() >= probability or not others:
        return current
    return others[int(generator.integers(0, len(others)))]

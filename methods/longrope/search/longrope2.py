"""LongRoPE2's search: the critical pair and the factors at and above it, NTK below. Shape letters: P rotary pairs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from harness.errors import RequestError
from methods.base import FloatArray
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evolution import AbstractEvolution
from methods.longrope.search.operators import Box, cross, mutate, tie_low_pairs
from methods.longrope.search.space import Problem
from methods.rope import AttentionPolicy, check_attention

# A search at one fixed pair has no candidates of it to begin from: so many tops between the ratio and the greatest.
_N_TOPS = 8


@dataclass(frozen=True, kw_only=True)
class LongRoPE2Search(AbstractEvolution):
    """Algorithms 1 and 2 of the paper; its population, iterations and mutation probability are the defaults.

    critical_pair: `joint` seeds one curve for each candidate, and survival chooses; `theoretical` or a number fixes it,
        as the released code does.
    tie_low_pairs: NTK below the critical pair; false searches all pairs (the paper's table 10).
    top_factor: the greatest factor, a multiple of the ratio, which is the least at and above the critical pair.
    attention: of every candidate. The paper names none; the released code searches with `su`.
    ranks_yarn: YaRN stands in the last ranking, so that nothing worse is returned; false chooses among the search's own
        candidates alone, as published.
    The released code also has: strictly_increasing = true, seed_slope = 0.1 (of the first curves, a pair, above the
    critical one), last_pair_step = 4.0 (how far the last factor may exceed its neighbour), population = 128.
    Source: arXiv:2502.20082 section 3.1 and appendix B; microsoft/LongRoPE@95ffc68 evolution/.
    Differs: a first curve's NTK part ends at its own critical pair, where the paper's line 6 prints the lowest one.
    """

    name: ClassVar[str] = "longrope2"

    critical_pair: int | Literal["joint", "theoretical"] = "joint"
    tie_low_pairs: bool = True
    top_factor: float = 2.0
    attention: AttentionPolicy = "su"
    ranks_yarn: bool = True
    strictly_increasing: bool = False
    seed_slope: float = 0.0
    last_pair_step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attention(self.attention)
        if not 1 < self.top_factor < math.inf:
            raise ValueError(f"top_factor = {self.top_factor:g}: it should be above 1, a multiple of the ratio")
        if not 0 <= self.seed_slope < math.inf:
            raise ValueError(f"seed_slope = {self.seed_slope:g}: it should be at least 0")
        if self.strictly_increasing and not self.seed_slope:
            raise ValueError("strictly_increasing needs first curves that rise: set seed_slope, such as 0.1")
        if self.last_pair_step is not None and not 0 < self.last_pair_step < math.inf:
            raise ValueError(f"last_pair_step = {self.last_pair_step:g}: it should be positive")

    def breeder(self, problem: Problem) -> "LongRoPE2Breeder":
        """The algorithm for one problem. Raises RequestError where the critical pair does not fit the model."""
        if problem.readjusts is not None:
            raise RequestError("algorithm 'longrope2' leaves short contexts alone: readjust them with 'longrope'")
        if isinstance(self.critical_pair, int) and not 1 <= self.critical_pair < problem.n_pairs:
            raise RequestError(
                f"critical_pair = {self.critical_pair}: it should be from 1 to {problem.n_pairs - 1}, the model has "
                f"{problem.n_pairs} rotary pairs"
            )
        breeder = LongRoPE2Breeder(settings=self, problem=problem)
        if self.strictly_increasing:
            breeder.check_slope()
        return breeder


@dataclass(frozen=True, kw_only=True)
class LongRoPE2Breeder:
    """See `evolution.Breeder`."""

    settings: LongRoPE2Search
    problem: Problem

    @cached_property
    def attention_factor(self) -> float:
        """Of every candidate."""
        return self.problem.attention_factor(self.settings.attention)

    @property
    def top(self) -> float:
        """The greatest factor."""
        return self.settings.top_factor * self.problem.ratio

    def box(self, critical_pair: int) -> Box:
        """The ratio to the top at and above the critical pair; below it 1 to the top where those are searched."""
        n_pairs, ratio = self.problem.n_pairs, self.problem.ratio
        return Box(
            low_P=np.where(np.arange(n_pairs) < critical_pair, 1.0, ratio),
            high_P=np.full(n_pairs, self.top),
            first=critical_pair if self.settings.tie_low_pairs else 0,
            strict=self.settings.strictly_increasing,
            last_step=self.settings.last_pair_step or math.inf,
        )

    @property
    def critical_pairs(self) -> Sequence[int]:
        """Where the searched part may begin."""
        if self.settings.critical_pair == "joint":
            return self.problem.critical_pairs
        if self.settings.critical_pair == "theoretical":
            return [self.problem.theoretical_critical_pair]
        return [self.settings.critical_pair]

    def check_slope(self) -> None:
        """Raises RequestError where not even the lowest first curve rises to the last pair."""
        most = (self.top - self.problem.ratio) / max(self.problem.n_pairs - 1 - self.critical_pairs[-1], 1)
        if self.settings.seed_slope > most:
            raise RequestError(
                f"seed_slope = {self.settings.seed_slope:g}: it should be at most {most:.3g}, for first curves that "
                f"strictly increase within {self.problem.ratio:g} to {self.top:g}"
            )

    def seeds(self, generator: np.random.Generator) -> list[Candidate]:
        """Algorithm 1: for each critical pair one flat top, a whole number; several tops where the pair is fixed."""
        ratio = self.problem.ratio
        if self.settings.critical_pair == "joint":
            low, high = math.ceil(ratio), max(math.floor(self.top), math.ceil(ratio))
            tops = [(pair, float(generator.integers(low, high + 1))) for pair in self.critical_pairs]
        else:
            tops = [(self.critical_pairs[0], ratio + k * (self.top - ratio) / _N_TOPS) for k in range(_N_TOPS)]
        return [self.seed(pair, top) for pair, top in tops]

    def seed(self, critical_pair: int, top: float) -> Candidate:
        """A curve of algorithm 1: NTK to `top` at the critical pair, flat, or slightly rising, above."""
        above_P = np.maximum(np.arange(self.problem.n_pairs) - critical_pair, 0)
        factors_P = np.clip(top + self.settings.seed_slope * above_P, self.problem.ratio, self.top)
        return self._candidate(tie_low_pairs(factors_P, critical_pair), critical_pair, "seed")

    def references(self) -> list[Candidate]:
        """YaRN, as its authors run it, where it is ranked."""
        return [self.problem.yarn()] if self.settings.ranks_yarn else []

    def mutate(self, parent: Candidate, generator: np.random.Generator) -> Candidate:
        """Algorithm 2 for one parent."""
        pair = _pair(parent)
        box = self.box(pair)
        probability = self.settings.mutation_probability
        child_P = mutate(np.array(parent.rescale_factors), box, generator, probability=probability)
        return self._child(child_P, pair, "mutation") if box.holds(child_P) else parent

    def cross(self, first: Candidate, second: Candidate, generator: np.random.Generator) -> Iterator[Candidate]:
        """The first parent with factors of the second; the critical pair stays the first's."""
        pair = _pair(first)
        lists = np.array(first.rescale_factors), np.array(second.rescale_factors)
        for child_P in cross(*lists, self.box(pair), generator, probability=self.settings.crossover_probability):
            yield self._child(child_P, pair, "crossover")

    def _child(self, factors_P: FloatArray, pair: int, origin: str) -> Candidate:
        tied_P = tie_low_pairs(factors_P, pair) if self.settings.tie_low_pairs else factors_P
        return self._candidate(tied_P, pair, origin)

    def _candidate(self, factors_P: FloatArray, pair: int, origin: str) -> Candidate:
        return Candidate(
            rescale_factors=tuple(factors_P.tolist()),
            attention_factor=self.attention_factor,
            critical_pair=pair,
            origin=origin,
        )


def _pair(candidate: Candidate) -> int:
    assert candidate.critical_pair is not None, "every candidate of this search has a critical pair"
    return candidate.critical_pair

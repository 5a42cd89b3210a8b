"""LongRoPE's search: all pairs, and how many first tokens keep their positions. Shape letters: P rotary pairs.

Beyond the plain search there are two more uses of it. *Short contexts*: with `Problem.readjusts`, a second list of
factors, for a length that the extended model should still serve well (`short_factor`). *Progressive extension*: the
`Problem` of an `extended` RoPE, whose result `compose` expresses in terms of the model's first one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from harness.errors import RequestError
from methods.base import FloatArray, RopeSpec
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evolution import AbstractEvolution
from methods.longrope.search.operators import Box, cross, draw_start_tokens, mutate
from methods.longrope.search.space import Problem, tidy
from methods.rope import AttentionPolicy, check_attention, rotations

# Source: arXiv:2402.13753 table 4.
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class LongRoPESearch(AbstractEvolution):
    """Algorithm 1 of the paper; its population, iterations, parents and children are the defaults.

    top_factor: the greatest factor, a multiple of the ratio.
    search_start_tokens: the first tokens that keep the original frequencies are searched too; their numbers are the
        paper's, those inside the window.
    attention: of every candidate; where short contexts are readjusted it is the long factors' own.
    From 512k tokens on the paper halves population, n_mutations and n_crossovers. The released code begins from YaRN
    alone, keeps the last factor at most 1 + ratio, and searches no start tokens.
    Source: arXiv:2402.13753 sections 3.2 and 3.3, appendix A.
    """

    name: ClassVar[str] = "longrope"

    top_factor: float = 1.25
    search_start_tokens: bool = True
    attention: AttentionPolicy = "su"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attention(self.attention)
        if not 1 <= self.top_factor < math.inf:
            raise ValueError(f"top_factor = {self.top_factor:g}: it should be at least 1, a multiple of the ratio")

    def breeder(self, problem: Problem) -> "LongRoPEBreeder":
        """The algorithm for one problem. Raises RequestError where there is nothing to readjust."""
        breeder = LongRoPEBreeder(settings=self, problem=problem)
        long = problem.readjusts
        if long is not None and breeder.top >= max(long.rescale_factors):
            raise RequestError(
                f"target_length = {problem.target_length}: its greatest factor of {breeder.top:g} should be below "
                f"{max(long.rescale_factors):g}, that of the factors to readjust; take a shorter length"
            )
        return breeder


@dataclass(frozen=True, kw_only=True)
class LongRoPEBreeder:
    """See `evolution.Breeder`."""

    settings: LongRoPESearch
    problem: Problem

    @property
    def top(self) -> float:
        """The greatest factor."""
        return self.settings.top_factor * self.problem.ratio

    @cached_property
    def box(self) -> Box:
        """From 1 to the top, every pair."""
        return Box.flat(self.problem.n_pairs, 1.0, self.top)

    @cached_property
    def start_tokens(self) -> tuple[int, ...]:
        """What may be chosen."""
        return tuple(n for n in START_TOKENS if n <= self.problem.window)

    def seeds(self, generator: np.random.Generator) -> list[Candidate]:
        """PI, NTK and YaRN; where short contexts are readjusted also the long factors, shrunk to the top."""
        problem, attention = self.problem, self.settings.attention
        forms = [problem.pi(attention=attention), problem.ntk(attention=attention), problem.yarn(attention=attention)]
        if problem.readjusts is not None:
            forms.append(shrunk(problem.readjusts, self.top))
        return [
            replace(form, rescale_factors=tuple(self.box.bring_in(np.array(form.rescale_factors)).tolist()))
            for form in forms
        ]

    def references(self) -> list[Candidate]:
        """YaRN with its own attention factor; the long factors and the original RoPE where those are readjusted."""
        long = self.problem.readjusts
        return [self.problem.yarn()] if long is None else [long, self.problem.vanilla()]

    def mutate(self, parent: Candidate, generator: np.random.Generator) -> Candidate:
        """Every gene with the mutation probability."""
        probability = self.settings.mutation_probability
        factors_P = mutate(np.array(parent.rescale_factors), self.box, generator, probability=probability)
        n_start = parent.start_tokens
        if self.settings.search_start_tokens:
            n_start = draw_start_tokens(n_start, self.start_tokens, generator, probability=probability)
        return self._child(parent, factors_P, n_start, "mutation")

    def cross(self, first: Candidate, second: Candidate, generator: np.random.Generator) -> Iterator[Candidate]:
        """The first parent with factors of the second, and the start tokens of either."""
        n_start = (first, second)[int(generator.integers(0, 2))].start_tokens
        lists = np.array(first.rescale_factors), np.array(second.rescale_factors)
        for factors_P in cross(*lists, self.box, generator, probability=self.settings.crossover_probability):
            yield self._child(first, factors_P, n_start, "crossover")

    def _child(self, parent: Candidate, factors_P: FloatArray, start_tokens: int, origin: str) -> Candidate:
        return replace(parent, rescale_factors=tuple(factors_P.tolist()), start_tokens=start_tokens, origin=origin)


def shrunk(candidate: Candidate, top: float) -> Candidate:
    """The same curve, lower: each factor to one power, so that the greatest becomes `top`."""
    factors_P = np.array(candidate.rescale_factors)
    greatest = factors_P.max()
    power = math.log(top) / math.log(greatest) if greatest > 1 else 1.0
    return replace(candidate, rescale_factors=tidy(factors_P**power), origin="shrunk")


def extended(rope: RopeSpec, candidate: Candidate, *, window: int) -> RopeSpec:
    """The RoPE of a model that was trained on with a candidate's factors, to a window of `window` tokens.

    `rope_theta`, which places the closed forms' pairs, is that of a plain RoPE which turns once within the window at
    the same pair. Raises RequestError for start tokens, which one list of frequencies cannot hold.
    """
    if candidate.start_tokens:
        raise RequestError(
            f"start_tokens = {candidate.start_tokens}: it should be 0 in factors that are extended further; search "
            "them with search_start_tokens = false"
        )
    scaling = candidate.scaling(rope)
    found = replace(
        rope,
        inv_freq_P=scaling.inv_freq_P,
        attention_factor=scaling.attention_factor,
        original_max_position_embeddings=window,
    )
    return replace(found, rope_theta=_matching_theta(found))


def compose(candidate: Candidate, extended_by: Candidate) -> Candidate:
    """A candidate that was searched on an `extended` RoPE, in terms of the RoPE before: factors multiply.

    Raises RequestError for start tokens: those keep the extended frequencies, which the result cannot say.
    """
    for one in (candidate, extended_by):
        if one.start_tokens:
            raise RequestError(
                f"start_tokens = {one.start_tokens}: it should be 0 where factors are multiplied; search them with "
                "search_start_tokens = false"
            )
    factors_P = np.array(candidate.rescale_factors) * np.array(extended_by.rescale_factors)
    return replace(
        candidate,
        rescale_factors=tuple(factors_P.tolist()),
        attention_factor=candidate.attention_factor * extended_by.attention_factor,
    )


def _matching_theta(rope: RopeSpec) -> float:
    """See `extended`; where all pairs turn, or the first does not, the last frequency is matched instead."""
    n_pairs = len(rope.inv_freq_P)
    turning = np.flatnonzero(rope.inv_freq_P)
    log_turns = np.log(rotations(rope)[turning])
    below = np.flatnonzero(log_turns < 0)
    if len(below) and below[0] > 0 and log_turns[0] > 0:
        after = int(below[0])
        share = log_turns[after - 1] / (log_turns[after - 1] - log_turns[after])
        pair = turning[after - 1] + share * (turning[after] - turning[after - 1])
        return float((rope.original_max_position_embeddings / (2 * math.pi)) ** (n_pairs / pair))
    last = int(turning[-1])
    return float(rope.inv_freq_P[last] ** (-n_pairs / last)) if last else rope.rope_theta

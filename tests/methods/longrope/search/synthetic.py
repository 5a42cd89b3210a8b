"""A stand-in for a model: a smooth loss in the log factors with noise by block, and a loop that keeps the books."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw, Measured, Searcher, Unit
from methods.longrope.search.space import Problem
from tests.methods.ropes import TINY


def problem(rope=TINY, target_length=4096, **settings) -> Problem:
    n_documents = settings.setdefault("n_documents", 8)
    return Problem(rope=rope, target_length=target_length, unit=Unit(n_tokens=target_length * n_documents), **settings)


@dataclass
class Synthetic:
    """Measures by the distance from the best curve; each document block has its own noise, and its own best curve."""

    wanted: Candidate
    wanted_start_tokens: int = 0
    noise: float = 0.05
    broken: Callable[[Candidate], bool] = lambda candidate: False
    asked: list[Ask] = field(default_factory=list)

    def loss(self, candidate: Candidate, draw: Draw) -> float:
        if self.broken(candidate):
            return float("nan")
        best = np.log(self.wanted.rescale_factors)
        generator = np.random.default_rng([zlib.crc32(draw.split.encode()), draw.block])
        shift = generator.normal(0, self.noise, best.shape)
        far = float(np.mean((np.log(candidate.rescale_factors) - best - shift) ** 2))
        far += (candidate.attention_factor - self.wanted.attention_factor) ** 2
        far += 0.01 * (candidate.start_tokens != self.wanted_start_tokens)
        return far + abs(float(generator.normal(0, self.noise)))

    def measure(self, ask: Ask) -> list[Measured]:
        self.asked.append(ask)
        return [Measured(loss=self.loss(candidate, ask.draw)) for candidate in ask.candidates]


def finish(searcher: Searcher, evaluator: Synthetic) -> list[Ask]:
    """The whole search; its questions."""
    while (ask := searcher.ask()) is not None:
        assert searcher.ask() == ask
        searcher.tell(evaluator.measure(ask))
    return evaluator.asked


def all_candidates(asks: list[Ask], split: str = "search") -> list[Candidate]:
    return [candidate for ask in asks if ask.draw.split == split for candidate in ask.candidates]

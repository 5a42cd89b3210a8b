"""A stand-in for a model whose loss and gradient are exact, for the gradient search."""

import math

import numpy as np

from methods.base import RopeSpec
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Gradient, Measured, Unit
from methods.longrope.search.space import Problem
from methods.rope import default_inv_freq


def make_problem(*, n_pairs=32, window=512, target=4096, budget=60.0, **settings) -> Problem:
    rope = RopeSpec(
        inv_freq_P=default_inv_freq(1e4, 2 * n_pairs),
        rope_theta=1e4,
        rotary_dim=2 * n_pairs,
        original_max_position_embeddings=window,
    )
    n_documents = settings.pop("n_documents", 8)
    unit = Unit(n_tokens=n_documents * target)
    return Problem(rope=rope, target_length=target, unit=unit, n_documents=n_documents, budget=budget, **settings)


class Valley:
    """The squared distance to a hidden curve, times noise of the documents; the gradient is exact."""

    def __init__(self, problem: Problem, *, noise: float = 0.3) -> None:
        self.noise, self.asks = noise, []
        ramp_P = np.clip(np.arange(problem.n_pairs) / problem.n_pairs * 4 - 0.9, 0, 1)
        self.logs_P = ramp_P**2 * math.log(3 * problem.ratio)

    def true_loss(self, candidate: Candidate) -> float:
        off_P = np.log(candidate.rescale_factors) - self.logs_P
        return float(np.mean(off_P**2)) + (math.log(candidate.attention_factor) - 0.15) ** 2

    def measure(self, ask: Ask) -> list[Measured]:
        self.asks.append(ask)
        rng = np.random.default_rng([ask.draw.block, ask.draw.seq_len, len(ask.draw.split)])
        scale = math.exp(self.noise * rng.standard_normal() / math.sqrt(ask.draw.n_documents))
        return [self.one(candidate, scale, ask.measure == "gradient") for candidate in ask.candidates]

    def one(self, candidate: Candidate, scale: float, with_gradient: bool) -> Measured:
        off_P = np.log(candidate.rescale_factors) - self.logs_P
        gradient = Gradient(
            log_rescale_factors_P=scale * 2 * off_P / len(off_P),
            log_attention_factor=scale * 2 * (math.log(candidate.attention_factor) - 0.15),
        )
        return Measured(loss=scale * self.true_loss(candidate), gradient=gradient if with_gradient else None)


def run(searcher, evaluator, *, most=math.inf) -> list[Ask]:
    asks: list[Ask] = []
    while (ask := searcher.ask()) is not None and len(asks) < most:
        asks.append(ask)
        searcher.tell(evaluator.measure(ask))
    return asks

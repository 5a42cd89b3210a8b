"""The gradient search's last choice: which finalists meet which held-out documents, and who is first."""

import math

import numpy as np
import pytest

from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw, Gradient, Measured
from methods.longrope.search.fast import FastSearch
from methods.longrope.search.space import Problem
from tests.methods.longrope.search.valley import Valley, make_problem, run


class Held(Valley):
    """Loss of its own for each held-out document; on search documents the opposite of the truth."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.rounds: list[Ask] = []

    def measure(self, ask):
        found = super().measure(ask)
        if ask.draw.split == "search":
            return [Measured(loss=-m.loss, gradient=m.gradient and _negative(m.gradient)) for m in found]
        self.rounds.append(ask)
        return [Measured(loss=self.held_out(candidate, ask.draw)) for candidate in ask.candidates]

    def held_out(self, candidate: Candidate, draw: Draw) -> float:
        rng = np.random.default_rng([draw.block, int(candidate.key[:8], 16)])
        return self.true_loss(candidate) + float(rng.normal(0, 1 / math.sqrt(draw.n_documents)))

    def mean(self, candidate: Candidate) -> float:
        """Over the documents of all rounds."""
        draws = [ask.draw for ask in self.rounds]
        return np.average([self.held_out(candidate, d) for d in draws], weights=[d.n_documents for d in draws])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [20.0, 60.0, 300.0])
def test_the_first_is_never_worse_held_out_than_a_closed_form_whatever_the_search_documents_say(seed, budget):
    problem = make_problem(seed=seed, budget=budget)
    held, searcher = Held(problem), FastSearch().start(problem)
    run(searcher, held)
    first = held.rounds[0].candidates
    assert problem.yarn() in first
    closed = [c for c in first if not c.origin.startswith("gradient")]
    assert 2 <= len(closed) < len(first)
    for ask in held.rounds:
        assert set(closed) <= set(ask.candidates)
    found, loss = searcher.ranking()[0]
    assert loss == pytest.approx(held.mean(found))
    assert loss <= min(map(held.mean, closed)) + 1e-12


def test_held_out_documents_go_to_ever_fewer_finalists():
    problem = make_problem(budget=300.0)
    held, searcher = Held(problem), FastSearch().start(problem)
    run(searcher, held)
    counts = [sum(c.origin.startswith("gradient") for c in ask.candidates) for ask in held.rounds]
    assert counts[0] >= 5
    assert counts == [counts[0], *((n + 1) // 2 for n in counts[:-1])]
    assert counts[-1] == 2
    costs = [problem.cost(ask) for ask in held.rounds]
    assert min(costs) > 0.7 * max(costs)
    assert len({ask.draw.block for ask in held.rounds}) == len(held.rounds)
    for now, then in zip(held.rounds[1:], held.rounds, strict=False):
        seen = [ask for ask in held.rounds if ask.draw.block <= then.draw.block]
        weights = [ask.draw.n_documents for ask in seen]
        means = [np.average([held.held_out(c, ask.draw) for ask in seen], weights=weights) for c in then.candidates]
        best = then.candidates[int(np.argmin(means))]
        assert best in now.candidates
        assert set(now.candidates) < set(then.candidates)


def test_a_small_budget_chooses_among_few_on_enough_documents():
    problem = make_problem(budget=28.0)
    searcher, held = FastSearch().start(problem), Held(problem)
    run(searcher, held)
    (only,) = held.rounds
    assert [candidate.origin for candidate in only.candidates[:2]] == ["gradient, mean", "yarn"]
    assert len(only.candidates) == 3
    assert only.draw.n_documents >= 14


def test_short_guard_puts_what_harms_the_window_last():
    class Guarded(Valley):
        def measure(self, ask):
            if ask.measure == "short_loss":
                assert ask.draw == Draw(split="held_out", seq_len=512, n_documents=8)
                return [Measured(loss=3.0 + (c.attention_factor > 1.0)) for c in ask.candidates]
            return super().measure(ask)

    problem = make_problem()
    searcher = FastSearch(short_guard=0.1).start(problem)
    asks = run(searcher, Guarded(problem))
    assert sum(map(problem.cost, asks)) <= problem.budget
    harmful = [candidate.attention_factor > 1.0 for candidate, _ in searcher.ranking()]
    assert harmful == sorted(harmful)
    losses = [loss for candidate, loss in searcher.ranking() if candidate.attention_factor > 1.0]
    assert losses == sorted(losses)


def _negative(gradient: Gradient) -> Gradient:
    return Gradient(
        log_rescale_factors_P=-gradient.log_rescale_factors_P, log_attention_factor=-gradient.log_attention_factor
    )

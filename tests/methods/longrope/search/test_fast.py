"""The gradient search: a curve with an analytic loss for exactness, tiny-llama for the claim."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from harness.errors import RequestError
from methods.longrope.search.evaluator import Gradient, Measured
from methods.longrope.search.fast import FastSearch
from methods.longrope.search.space import Problem
from tests.methods.longrope.search.valley import Valley, make_problem, run

BUDGETS = (20, 60, 100, 300, 2000)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("fresh", [True, False])
def test_it_beats_its_starts_within_the_budget(budget, fresh):
    problem = make_problem(budget=float(budget), fresh=fresh)
    valley, searcher = Valley(problem), FastSearch().start(problem)
    asks = run(searcher, valley)
    spent = sum(map(problem.cost, asks))
    assert 0.8 * min(budget, 400) < spent <= budget
    best = searcher.ranking()[0][0]
    raced = min(map(valley.true_loss, asks[0].candidates))
    assert valley.true_loss(best) < (0.5 if budget >= 100 else 0.9) * raced
    splits = [ask.draw.split for ask in asks]
    assert set(splits) == {"search", "held_out"}
    assert splits == sorted(splits, reverse=True)  # what is held out is met last


def test_more_budget_finds_a_lower_loss():
    losses = []
    for budget in (20, 100, 1000):
        problem = make_problem(budget=float(budget))
        valley, searcher = Valley(problem), FastSearch().start(problem)
        run(searcher, valley)
        losses.append(valley.true_loss(searcher.ranking()[0][0]))
    assert losses[0] > losses[1] > losses[2]


def test_budget_too_small_says_the_least_and_the_least_is_enough():
    with pytest.raises(RequestError, match="budget = 1: algorithm 'fast' needs") as caught:
        FastSearch().start(make_problem(budget=1.0))
    least = float(str(caught.value).split("needs ")[1].split()[0])
    assert least <= 20
    problem = make_problem(budget=least * 1.001)
    searcher = FastSearch().start(problem)
    asks = run(searcher, Valley(problem))
    assert sum(map(problem.cost, asks)) <= problem.budget
    assert min(ask.draw.n_documents for ask in asks) >= 1
    assert len(searcher.ranking()) >= 3


def test_polish_tries_mutations_within_the_budget_and_what_beats_the_mean_reaches_the_last_choice():
    problem = make_problem(budget=100.0)
    evaluator = Valley(problem, noise=0.0)
    searcher = FastSearch(polish=0.2).start(problem)
    asks = run(searcher, evaluator)
    assert sum(problem.cost(ask) for ask in asks) <= problem.budget
    *_, mean = (c for ask in asks for c in ask.candidates if c.origin == "gradient, mean")
    tried = {c: evaluator.true_loss(c) for ask in asks for c in ask.candidates if c.origin == "polish"}
    assert len(tried) >= 10
    better = sorted(loss for loss in tried.values() if loss < evaluator.true_loss(mean))
    finalists = next(ask.candidates for ask in asks if ask.draw.split == "held_out")
    chosen_among = [evaluator.true_loss(c) for c in finalists if c.origin == "polish"]
    assert better
    assert sorted(chosen_among) == better[:2]
    assert searcher.ranking()[0][1] <= better[0]
    assert not any(
        c.origin == "polish" for ask in run(FastSearch().start(problem), Valley(problem)) for c in ask.candidates
    )


def test_same_seed_same_questions_other_seed_other_starts():
    first, again, other = (
        run(FastSearch().start(problem), Valley(problem))
        for problem in (make_problem(), make_problem(), make_problem(seed=1))
    )
    assert first == again
    assert first[0] != other[0]


def test_restored_at_any_step_it_asks_the_same():
    problem, settings = make_problem(budget=20.0), FastSearch()
    searcher, states = settings.start(problem), []
    valley = Valley(problem)
    while (ask := searcher.ask()) is not None:
        states.append((json.loads(json.dumps(searcher.state())), ask))
        searcher.tell(valley.measure(ask))
    for state, _ in states:
        restored = settings.start(problem)
        restored.restore(state)
        rest = run(restored, Valley(problem))
        assert rest == [ask for _, ask in states[-len(rest) :]]
        assert restored.ranking() == searcher.ranking()
    restored.restore(searcher.state())
    assert restored.ask() is None


def test_state_of_another_search_is_refused():
    searcher = FastSearch().start(make_problem())
    with pytest.raises(RequestError, match="'longrope2': it should be of 'fast'"):
        searcher.restore({"algorithm": "longrope2"})
    with pytest.raises(RequestError, match="other settings"):
        searcher.restore({"algorithm": "fast", "answers": [[{"loss": 1.0}]]})
    with pytest.raises(ValueError, match="0 answers"):
        searcher.tell([])


def test_candidates_that_fail_are_out_and_the_search_goes_on():
    class Fragile(Valley):
        def one(self, candidate, scale, with_gradient):
            if candidate.attention_factor > 1.1 or candidate.rescale_factors[-1] > 12:
                return Measured(loss=math.nan)
            return super().one(candidate, scale, with_gradient)

    problem = make_problem()
    searcher = FastSearch().start(problem)
    asks = run(searcher, Fragile(problem))
    assert all(math.isfinite(loss) for _, loss in searcher.ranking())
    assert searcher.ranking()
    assert sum(map(problem.cost, asks)) <= problem.budget


def test_where_everything_fails_the_search_ends_with_nothing():
    class Broken(Valley):
        def one(self, candidate, scale, with_gradient):
            return Measured(loss=math.nan)

    problem = make_problem()
    searcher = FastSearch().start(problem)
    run(searcher, Broken(problem))
    assert searcher.ranking() == []


@pytest.mark.parametrize("level", [0.0, 11.3])
def test_a_flat_loss_ends_with_a_closed_form_or_its_like(level):
    class Flat(Valley):
        def one(self, candidate, scale, with_gradient):
            zero = Gradient(log_rescale_factors_P=np.zeros(len(self.logs_P)), log_attention_factor=0.0)
            return Measured(loss=level, gradient=zero if with_gradient else None)

    problem = make_problem()
    searcher = FastSearch().start(problem)
    run(searcher, Flat(problem))
    assert searcher.ranking()[0][1] == level
    assert searcher.ranking()[0][0].is_sound


@pytest.mark.parametrize(
    "shape",
    [
        {"target": 520},
        {"target": 512 * 64},
        {"n_pairs": 4},
        {"n_pairs": 2, "window": 32, "target": 100},
        {"n_documents": 1, "budget": 100.0},
        {"n_documents": 100},
    ],
)
def test_odd_models_and_lengths(shape):
    problem = make_problem(**shape)
    searcher = FastSearch().start(problem)
    asks = run(searcher, Valley(problem))
    assert sum(map(problem.cost, asks)) <= problem.budget
    for candidate, _ in searcher.ranking():
        assert candidate.is_sound
        assert (np.diff(candidate.rescale_factors) >= -1e-12).all()
    assert all(problem.window <= ask.draw.seq_len <= problem.target_length for ask in asks)


def test_documents_are_new_for_each_question_or_a_fixed_few():
    for fresh in (True, False):
        problem = make_problem(fresh=fresh)
        asks = [ask for ask in run(FastSearch().start(problem), Valley(problem)) if ask.draw.split == "search"]
        blocks = Counter((ask.draw.block, ask.draw.seq_len) for ask in asks if ask.measure == "loss")
        assert (max(blocks.values()) == 1) == fresh
        if not fresh:
            assert {ask.draw.block for ask in asks} == {0, 1, 2, 3}  # of 2 documents each: 8


@pytest.mark.parametrize(("attention", "factor"), [("none", 1.0), (1.3, 1.3)])
def test_attention_factor_may_be_fixed(attention, factor):
    problem = make_problem()
    asks = run(FastSearch(attention=attention).start(problem), Valley(problem))
    factors = [candidate.attention_factor for ask in asks for candidate in ask.candidates]
    np.testing.assert_allclose(factors, factor, rtol=1e-12)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("documents_a_step", 0),
        ("n_descents", 0),
        ("n_held_out", 0),
        ("learning_rate", 0.0),
        ("short_share", 1.5),
        ("short_guard", -1.0),
        ("attention", -1.0),
    ],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting} = {value:g}"):
        FastSearch(**{setting: value})


def test_on_tiny_llama_it_gets_below_yarn_on_held_out_needles(tiny_llama):
    from methods.longrope.search.documents import Objective
    from methods.longrope.search.objective import NeedleEvaluator

    objective = Objective(n_keys=4, n_asked=4, search_keys=16, position="uniform", n_documents=4)
    evaluator = NeedleEvaluator(tiny_llama, objective, target_length=2048, seed=2)
    problem = Problem(rope=tiny_llama.rope, target_length=2048, unit=evaluator.unit, n_documents=4, budget=16.0, seed=2)
    searcher = FastSearch().start(problem)
    asks = run(searcher, evaluator)
    assert sum(map(problem.cost, asks)) <= problem.budget
    losses = {candidate.key: loss for candidate, loss in searcher.ranking()}
    assert searcher.ranking()[0][1] < losses[problem.yarn().key]

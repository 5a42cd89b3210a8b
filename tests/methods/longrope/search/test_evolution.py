"""What both published searches promise, whatever they are asked for."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.catalogue import build
from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.longrope import LongRoPESearch
from methods.longrope.search.longrope2 import LongRoPE2Search
from methods.longrope.search.operators import tie_low_pairs
from tests.methods.longrope.search.synthetic import Synthetic, all_candidates, finish, problem
from tests.methods.ropes import TINY, make_rope

SMALL = {"population": 24, "iterations": 12, "n_parents": 8, "n_mutations": 6, "n_crossovers": 6, "n_final": 4}
BOTH = [LongRoPESearch, LongRoPE2Search]
BRED = ("mutation", "crossover")
NO_START = {"search_start_tokens": False}
FRESH = pytest.mark.parametrize("fresh", [True, False])
ALGORITHM = pytest.mark.parametrize("algorithm", BOTH)


def wanted() -> Candidate:
    """A curve that no closed form has."""
    factors_P = np.concatenate([np.linspace(1, 9, 14), np.linspace(9.2, 9.9, 18)])
    return Candidate(rescale_factors=tuple(factors_P.tolist()), attention_factor=1.1)


def tied() -> Candidate:
    """A curve that LongRoPE2's search can reach and no closed form has."""
    factors_P = tie_low_pairs(np.linspace(5, 15.9, 32), 14)
    return Candidate(rescale_factors=tuple(factors_P.tolist()), attention_factor=1.1)


@ALGORITHM
@FRESH
def test_improves_on_every_closed_form_it_started_from(algorithm, fresh):
    model = Synthetic(tied() if algorithm is LongRoPE2Search else wanted(), noise=0.01)
    searcher = algorithm(**SMALL).start(problem(fresh=fresh, budget=1000))
    finish(searcher, model)
    held_out = model.asked[-1]
    assert held_out.draw.split == "held_out"
    losses = [model.loss(candidate, held_out.draw) for candidate in held_out.candidates]
    closed = [loss for candidate, loss in zip(held_out.candidates, losses, strict=True) if candidate.origin not in BRED]
    best, loss = searcher.ranking()[0]
    assert best.origin in BRED
    assert [one for _, one in searcher.ranking()] == sorted(losses)
    assert loss < 0.8 * min(closed)


@ALGORITHM
@FRESH
def test_every_start_is_in_the_last_ranking(algorithm, fresh):
    model = Synthetic(wanted())
    searcher = algorithm(**SMALL | {"iterations": 2}).start(problem(fresh=fresh))
    seeds = [candidate for candidate in searcher.ask().candidates if candidate.origin not in BRED]
    finish(searcher, model)
    ranked = {candidate.key for candidate, _ in searcher.ranking()}
    assert seeds
    assert {candidate.key for candidate in [*seeds, problem().yarn()]} <= ranked


@ALGORITHM
def test_a_closed_form_that_is_best_comes_out_first(algorithm):
    found = problem(budget=100)
    model = Synthetic(found.yarn(), noise=0.0)
    searcher = algorithm(**SMALL | {"iterations": 1}).start(found)
    finish(searcher, model)
    assert searcher.ranking()[0][0] == found.yarn()


@ALGORITHM
@FRESH
def test_nothing_is_asked_twice_on_the_same_documents(algorithm, fresh):
    asks = finish(algorithm(**SMALL).start(problem(fresh=fresh, budget=1000)), Synthetic(wanted()))
    pairs = [(candidate.key, ask.draw) for ask in asks for candidate in ask.candidates]
    assert len(pairs) == len(set(pairs))
    assert len(asks) == 14
    if fresh:
        assert [ask.draw.block for ask in asks[:-1]] == list(range(13))
    else:
        assert {ask.draw for ask in asks[:-1]} == {asks[0].draw}
        assert len({key for key, draw in pairs if draw == asks[0].draw}) == 24 + 12 * 12


@ALGORITHM
def test_fresh_documents_rank_parents_and_children_on_the_same_ones(algorithm):
    model = Synthetic(wanted())
    searcher = algorithm(**SMALL).start(problem(budget=1000))
    searcher.tell(model.measure(searcher.ask()))
    parents = [candidate.key for candidate, _ in searcher.ranking()]
    asked = searcher.ask()
    assert [candidate.key for candidate in asked.candidates][:8] == parents
    assert len(asked.candidates) == 8 + 12
    searcher.tell(model.measure(asked))
    for candidate, loss in searcher.ranking():
        assert loss == model.loss(candidate, asked.draw)


@ALGORITHM
@FRESH
@pytest.mark.parametrize("seed", [0, 7])
def test_an_interruption_at_any_point_changes_nothing(algorithm, fresh, seed):
    found = problem(fresh=fresh, seed=seed, budget=1000)
    asks = finish(algorithm(**SMALL).start(found), Synthetic(wanted()))
    model = Synthetic(wanted())
    searcher = algorithm(**SMALL).start(found)
    while True:
        resumed = algorithm(**SMALL).start(found)
        resumed.restore(json.loads(json.dumps(searcher.state(), allow_nan=False)))
        assert resumed.state() == searcher.state()
        assert resumed.ranking() == searcher.ranking()
        searcher = resumed
        if (ask := searcher.ask()) is None:
            break
        searcher.tell(model.measure(ask))
    assert model.asked == asks


@ALGORITHM
def test_the_seed_decides(algorithm):
    firsts = [algorithm(**SMALL).start(problem(seed=seed)).ask() for seed in (0, 0, 1)]
    assert firsts[0] == firsts[1] != firsts[2]


@ALGORITHM
@FRESH
@pytest.mark.parametrize("budget", [45, 60, 100, 137.5, 200])
def test_ends_within_the_budget_behind_a_whole_generation(algorithm, fresh, budget):
    found = problem(fresh=fresh, budget=budget)
    searcher = algorithm(**SMALL).start(found)
    asks = finish(searcher, Synthetic(wanted()))
    spent = sum(found.cost(ask) for ask in asks)
    assert spent == pytest.approx(searcher.spent)
    assert spent <= budget
    assert len(asks) - 1 >= searcher.plan.n_generations
    per_generation = 20 if fresh else 12
    assert len(asks) == 14 or spent + per_generation > budget - 12  # the last ranking was held free in full
    assert asks[-1].draw.split == "held_out"


def test_says_what_the_budget_holds():
    whole = LongRoPE2Search().start(problem(budget=3000)).plan
    assert whole.whole == 64 + 40 * 64 + 8 + 10
    assert "the whole search takes 2642 forward-equivalents; the budget of 3000 holds it" in str(whole)
    short = LongRoPE2Search().start(problem(budget=300)).plan
    assert str(short).endswith("the budget of 300 ends it after 4 of 41 generations")
    assert LongRoPESearch().start(problem(budget=3000, fresh=False)).plan.whole == 64 + 40 * 32 + 8 + 4


@ALGORITHM
def test_a_budget_below_one_generation_is_refused_before_anything_is_asked(algorithm):
    with pytest.raises(RequestError, match=r"budget = 40: it should be at least .* or make the population smaller"):
        algorithm().start(problem(budget=40))


@ALGORITHM
def test_held_out_documents_are_paid_for(algorithm):
    found = problem(budget=200)
    searcher = algorithm(**SMALL, held_out_documents=24).start(found)
    asks = finish(searcher, Synthetic(wanted()))
    assert asks[-1].draw.n_documents == 24
    assert found.cost(asks[-1]) == 3 * len(asks[-1].candidates)
    assert searcher.spent <= 200


@ALGORITHM
@FRESH
def test_a_loss_that_is_not_a_number_ends_the_candidate_alone(algorithm, fresh):
    model = Synthetic(wanted(), broken=lambda candidate: candidate.rescale_factors[-1] > 9.5)
    searcher = algorithm(**SMALL).start(problem(fresh=fresh, budget=1000))
    while (ask := searcher.ask()) is not None:
        searcher.tell(model.measure(ask))
        assert not any(model.broken(candidate) for candidate, _ in searcher.ranking())
    assert len(model.asked) == 14
    assert searcher.ranking()


@ALGORITHM
@FRESH
def test_a_model_that_only_fails_ends_the_search_with_nothing(algorithm, fresh):
    model = Synthetic(wanted(), broken=lambda candidate: True)
    searcher = algorithm(**SMALL).start(problem(fresh=fresh))
    assert [ask.draw.split for ask in finish(searcher, model)] == ["search", "held_out"]
    assert searcher.ranking() == []


@ALGORITHM
def test_no_new_children_end_the_search(algorithm):
    """Two pairs and a narrow box hold few candidates: proposals run out, and the search ends with what there is."""
    found = problem(make_rope(4, 1e4, 512), 520, fresh=False, budget=1e6)
    searcher = algorithm(population=500, iterations=300, tries=3, **({} if algorithm is LongRoPE2Search else NO_START))
    asks = finish(searcher.start(found), Synthetic(Candidate(rescale_factors=(1.0, 1.01))))
    assert 2 <= len(asks) < 100
    assert asks[-1].draw.split == "held_out"


@st.composite
def problems(draw):
    """Ropes of many shapes, targets that are no multiple of the window."""
    rope = make_rope(2 * draw(st.integers(2, 64)), draw(st.floats(10, 1e7)), draw(st.integers(32, 16384)))
    target = int(rope.original_max_position_embeddings * draw(st.floats(1.01, 70))) + 1
    return problem(rope, target, fresh=draw(st.booleans()), seed=draw(st.integers(0, 99)), budget=1000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.sampled_from(["joint", "theoretical", 1]), st.booleans())
def test_longrope2_keeps_its_constraints_in_everything_it_asks(found, critical_pair, tie):
    small = SMALL | {"iterations": 3, "population": 40}
    search = LongRoPE2Search(**small, critical_pair=critical_pair, tie_low_pairs=tie)
    asks = finish(search.start(found), Synthetic(found.ntk()))
    for candidate in all_candidates(asks):
        factors_P, pair = np.array(candidate.rescale_factors), candidate.critical_pair
        assert (
            pair
            in ({"joint": found.critical_pairs, "theoretical": [found.theoretical_critical_pair]} | {1: [1]})[
                critical_pair
            ]
        )
        assert np.all(np.diff(factors_P) >= 0)
        assert found.ratio <= factors_P[pair]
        assert factors_P[-1] <= 2 * found.ratio
        assert factors_P[0] >= 1
        if tie:
            np.testing.assert_allclose(factors_P[:pair], factors_P[pair] ** (np.arange(pair) / pair), rtol=1e-12)
        assert candidate.attention_factor == found.attention_factor("su")
        assert candidate.start_tokens == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.booleans())
def test_longrope_keeps_its_constraints_in_everything_it_asks(found, start_tokens):
    small = SMALL | {"iterations": 3, "population": 40}
    search = LongRoPESearch(**small, search_start_tokens=start_tokens)
    asks = finish(search.start(found), Synthetic(found.ntk()))
    choices = {0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256} if start_tokens else {0}
    for candidate in all_candidates(asks):
        factors_P = np.array(candidate.rescale_factors)
        assert np.all(np.diff(factors_P) >= 0)
        assert factors_P[0] >= 1
        assert factors_P[-1] <= 1.25 * found.ratio
        assert candidate.start_tokens in choices
        assert candidate.start_tokens <= found.window
        assert candidate.attention_factor == found.attention_factor("su")


@ALGORITHM
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"population": 0}, "population = 0: it should be at least 1"),
        ({"iterations": -1}, "iterations = -1: it should be at least 0"),
        ({"mutation_probability": 0.0}, "mutation_probability = 0: it should be above 0 and at most 1"),
        ({"crossover_probability": 1.5}, "crossover_probability = 1.5: it should be above 0"),
        ({"held_out_documents": 0}, "held_out_documents = 0: it should be at least 1"),
        ({"top_factor": 0.5}, "top_factor = 0.5: it should be"),
        ({"attention": "sue"}, "attention = 'sue': it should be one of 'none', 'su', 'yarn' or a number"),
        ({"attention": -1.0}, "attention = -1: a number should be positive"),
        ({"popluation": 3}, "has no setting 'popluation': did you mean 'population'"),
    ],
)
def test_refuses_a_bad_setting_in_one_line(algorithm, values, message):
    with pytest.raises(RequestError, match=message) as refusal:
        build(algorithm, values, where=f"algorithm '{algorithm.name}'")
    assert "\n" not in str(refusal.value)


def test_a_state_of_the_other_algorithm_is_refused():
    state = LongRoPESearch(**SMALL).start(problem()).state()
    with pytest.raises(RequestError, match="of the algorithm 'longrope': it should be of 'longrope2'"):
        LongRoPE2Search(**SMALL).start(problem()).restore(state)


def test_answers_must_be_as_many_as_the_questions():
    searcher = LongRoPE2Search(**SMALL).start(problem(TINY))
    with pytest.raises(ValueError, match="0 answers to 24 questions"):
        searcher.tell([])

"""LongRoPE2's search: its first curves, its children, and the differences between paper and released code."""

import numpy as np
import pytest

from harness.catalogue import build
from harness.errors import RequestError
from methods.longrope.factors_file import read_factors
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.longrope2 import LongRoPE2Search
from methods.longrope.search.operators import tie_low_pairs
from tests.methods.longrope.search.synthetic import Synthetic, all_candidates, finish, problem
from tests.methods.ropes import LLAMA3, TINY

SMALL = {"population": 24, "iterations": 12, "n_parents": 8, "n_mutations": 6, "n_crossovers": 6, "n_final": 4}


def seeds_of(search: LongRoPE2Search, found) -> list[Candidate]:
    return [candidate for candidate in search.start(found).ask().candidates if candidate.origin == "seed"]


def test_the_published_llama3_factors_are_a_seed_below_their_boundary():
    published = read_factors("llama3-8b-128k").rescale_factors
    breeder = LongRoPE2Search().breeder(problem(LLAMA3, 131072))
    seed = breeder.seed(33, published[33])
    np.testing.assert_allclose(seed.rescale_factors[:34], published[:34], rtol=1e-8)
    np.testing.assert_allclose(breeder.seed(33, 21.81).rescale_factors[:34], published[:34], rtol=1e-8)
    assert breeder.box(33).holds(np.array(published))


def test_algorithm_1_seeds_one_flat_curve_for_each_critical_pair():
    found = problem(LLAMA3, 131072, budget=3000)
    tops = set()
    for seed in range(12):
        seeds = seeds_of(LongRoPE2Search(), problem(LLAMA3, 131072, budget=3000, seed=seed))
        assert [candidate.critical_pair for candidate in seeds] == list(range(24, 36))
        for candidate in seeds:
            factors = candidate.rescale_factors
            assert len(set(factors[candidate.critical_pair :])) == 1
            assert candidate.attention_factor == found.attention_factor("su")
            tops.add(factors[-1])
    assert tops == {float(top) for top in range(16, 33)}


def test_a_ratio_that_is_no_whole_number_still_has_seeds_in_the_box():
    for target in (520, 700, 1000, 1337):
        for candidate in seeds_of(LongRoPE2Search(top_factor=1.05), problem(TINY, target)):
            assert target / 512 <= candidate.rescale_factors[-1] <= 1.05 * target / 512


def test_a_fixed_critical_pair_begins_as_the_released_code_does():
    seeds = seeds_of(LongRoPE2Search(critical_pair=33, seed_slope=0.1), problem(LLAMA3, 131072))
    assert [candidate.critical_pair for candidate in seeds] == [33] * 8
    np.testing.assert_allclose([candidate.rescale_factors[33] for candidate in seeds], range(16, 32, 2))
    np.testing.assert_allclose(seeds[0].rescale_factors[33:], 16 + 0.1 * np.arange(31))


def test_the_theoretical_critical_pair_can_be_asked_for():
    asks = finish(LongRoPE2Search(**SMALL, critical_pair="theoretical").start(problem()), Synthetic(problem().yarn()))
    assert {candidate.critical_pair for candidate in all_candidates(asks)} == {16}


def test_a_population_smaller_than_the_candidates_takes_them_evenly():
    seeds = seeds_of(LongRoPE2Search(**SMALL | {"population": 3}), problem())
    assert [candidate.critical_pair for candidate in seeds] == [8, 12, 16]


def test_joint_search_finds_the_critical_pair_that_a_fixed_one_misses():
    best = LongRoPE2Search().breeder(problem()).seed(11, 10.0)
    losses = {}
    for critical_pair in ("joint", "theoretical"):
        found = problem(budget=400, fresh=False)
        model = Synthetic(best, noise=0.01)
        searcher = LongRoPE2Search(**SMALL, critical_pair=critical_pair).start(found)
        finish(searcher, model)
        losses[critical_pair] = searcher.ranking()[0][1]
        if critical_pair == "joint":
            assert searcher.ranking()[0][0].critical_pair in (10, 11, 12)
    assert losses["joint"] < losses["theoretical"] / 2


def test_the_low_pairs_are_searched_only_where_that_is_asked_for():
    asks = finish(LongRoPE2Search(**SMALL, tie_low_pairs=False).start(problem()), Synthetic(problem().yarn()))
    free = [c for c in all_candidates(asks) if c.origin == "mutation"]
    tied = [tie_low_pairs(np.array(c.rescale_factors), c.critical_pair) for c in free]
    moved = [c for c, tied_P in zip(free, tied, strict=True) if not np.allclose(c.rescale_factors, tied_P)]
    assert len(moved) > len(free) / 2


def test_the_last_ranking_holds_yarn_unless_only_the_searchs_own_are_to_be_ranked():
    yarn = problem().yarn()
    for ranks_yarn in (True, False):
        searcher = LongRoPE2Search(**SMALL, ranks_yarn=ranks_yarn).start(problem())
        asks = finish(searcher, Synthetic(yarn))
        assert (yarn in asks[-1].candidates) is ranks_yarn
        assert (searcher.ranking()[0][0] == yarn) is ranks_yarn
    assert not any(yarn in ask.candidates for ask in asks)


def test_crossover_keeps_the_first_parents_critical_pair_and_mixes_both():
    breeder = LongRoPE2Search(crossover_probability=0.5, seed_slope=0.1).breeder(problem())
    first, second = breeder.seed(10, 9.0), breeder.seed(14, 9.45)
    children = [c for seed in range(20) for c in breeder.cross(first, second, np.random.default_rng(seed))]
    assert children
    for child in children:
        assert child.critical_pair == 10
        assert set(child.rescale_factors[10:]) <= {*first.rescale_factors, *second.rescale_factors}
        assert child.rescale_factors[9] == pytest.approx(child.rescale_factors[10] ** 0.9)


def test_the_released_codes_settings_give_strictly_increasing_children():
    search = LongRoPE2Search(
        critical_pair=33, strictly_increasing=True, seed_slope=0.1, last_pair_step=4.0, population=128, iterations=3
    )
    asks = finish(search.start(problem(LLAMA3, 131072)), Synthetic(problem(LLAMA3, 131072).ntk()))
    children = [candidate for candidate in all_candidates(asks) if candidate.origin != "seed"]
    assert len(asks[0].candidates) == 128
    assert all(np.diff(candidate.rescale_factors[33:]).min() > 0 for candidate in children)
    assert max(candidate.rescale_factors[-1] - candidate.rescale_factors[-2] for candidate in children) <= 4


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"critical_pair": 32}, {}, "critical_pair = 32: it should be from 1 to 31, the model has 32 rotary pairs"),
        ({"critical_pair": 0}, {}, "critical_pair = 0: it should be from 1 to 31"),
        (
            {"strictly_increasing": True, "seed_slope": 0.7},
            {},
            "seed_slope = 0.7: it should be at most 0.533, for first curves that strictly increase within 8 to 16",
        ),
        ({}, {"readjusts": Candidate(rescale_factors=(2.0,) * 32)}, "'longrope2' leaves short contexts alone"),
    ],
)
def test_refuses_what_does_not_fit_the_model(settings, more, message):
    with pytest.raises(RequestError, match=message):
        LongRoPE2Search(**settings).start(problem(**more))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strictly_increasing": True}, "strictly_increasing needs first curves that rise: set seed_slope"),
        ({"seed_slope": -0.1}, "seed_slope = -0.1: it should be at least 0"),
        ({"last_pair_step": 0.0}, "last_pair_step = 0: it should be positive"),
        ({"top_factor": 1.0}, "top_factor = 1: it should be above 1"),
    ],
)
def test_refuses_a_bad_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        LongRoPE2Search(**settings)


@pytest.mark.parametrize("value", ["joint", "theoretical", 33])
def test_the_critical_pair_is_written_as_a_word_or_a_number(value):
    assert build(LongRoPE2Search, {"critical_pair": value}, where="algorithm 'longrope2'").critical_pair == value


def test_another_word_for_the_critical_pair_is_refused():
    with pytest.raises(RequestError, match=r"critical_pair = 'jont': it should be .* 'joint', 'theoretical'"):
        build(LongRoPE2Search, {"critical_pair": "jont"}, where="algorithm 'longrope2'")

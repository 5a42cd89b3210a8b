"""LongRoPE's search, its readjustment for short contexts, and the second search on an extended model."""

import numpy as np
import pytest

from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.longrope import START_TOKENS, LongRoPESearch, compose, extended, shrunk
from methods.rope import pair_at_rotations
from tests.methods.longrope.search.synthetic import Synthetic, all_candidates, finish, problem
from tests.methods.ropes import LLAMA3, TINY, make_rope

SMALL = {"population": 24, "iterations": 12, "n_parents": 8, "n_mutations": 6, "n_crossovers": 6, "n_final": 4}
LONG = Candidate(
    rescale_factors=tuple((1 + 9 * np.linspace(0, 1, 32) ** 0.5).tolist()), attention_factor=1.17, start_tokens=16
)


@pytest.mark.parametrize("policy", ["su", "none", 1.05])
def test_the_population_begins_with_pi_ntk_and_yarn_under_one_attention_factor(policy):
    found = problem()
    first = LongRoPESearch(attention=policy).start(found).ask().candidates
    expected = (found.pi(attention=policy), found.ntk(attention=policy), found.yarn(attention=policy))
    assert first[:3] == expected
    assert len(first) == 64
    assert {candidate.origin for candidate in first[3:]} == {"mutation"}
    assert {candidate.attention_factor for candidate in first} == {found.attention_factor(policy)}


def test_start_tokens_are_a_gene_that_is_found():
    model = Synthetic(problem().yarn(attention="su"), wanted_start_tokens=64, noise=0.0)
    searcher = LongRoPESearch(**SMALL).start(problem(budget=500))
    asks = finish(searcher, model)
    assert searcher.ranking()[0][0].start_tokens == 64
    assert {candidate.start_tokens for candidate in all_candidates(asks)} <= set(START_TOKENS)
    assert len({candidate.start_tokens for candidate in all_candidates(asks)}) > 8


def test_start_tokens_stay_inside_the_window():
    asks = finish(LongRoPESearch(**SMALL).start(problem(make_rope(64, 1e4, 30), 300)), Synthetic(problem().yarn()))
    assert max(candidate.start_tokens for candidate in all_candidates(asks)) == 28


def test_a_crossing_takes_the_start_tokens_of_either_parent():
    breeder = LongRoPESearch(crossover_probability=0.5).breeder(problem())
    first = Candidate(rescale_factors=tuple(np.linspace(1, 8, 32).tolist()), start_tokens=4)
    second = Candidate(rescale_factors=tuple(np.linspace(1, 9, 32).tolist()), start_tokens=32)
    children = [c for seed in range(40) for c in breeder.cross(first, second, np.random.default_rng(seed))]
    assert {child.start_tokens for child in children} == {4, 32}


def test_factors_go_beyond_the_ratio_but_not_beyond_the_top():
    wanted = Candidate(rescale_factors=(20.0,) * 32, attention_factor=problem().attention_factor("su"))
    searcher = LongRoPESearch(**SMALL).start(problem(budget=500))
    asks = finish(searcher, Synthetic(wanted))
    greatest = [candidate.rescale_factors[-1] for candidate in all_candidates(asks)]
    assert 9 < max(greatest) <= 10


@pytest.mark.parametrize(("length", "top"), [(300, 1.25), (512, 1.25), (1024, 2.5)])
def test_short_contexts_get_lower_factors_of_their_own_under_the_long_attention_factor(length, top):
    wanted = Candidate(rescale_factors=tuple(np.linspace(1, 1.2, 32).tolist()), attention_factor=1.17)
    searcher = LongRoPESearch(**SMALL).start(problem(target_length=length, readjusts=LONG, budget=500))
    asks = finish(searcher, Synthetic(wanted, noise=0.001))
    for candidate in all_candidates(asks):
        assert candidate.rescale_factors[-1] <= top
        assert candidate.attention_factor == 1.17
    ranked = {candidate.key for candidate, _ in searcher.ranking()}
    original = Candidate(rescale_factors=(1.0,) * 32, attention_factor=1.17)
    assert {LONG.key, original.key} <= ranked
    assert {candidate.rescale_factors[-1] > top / 1.1 for candidate in all_candidates(asks)} == {True, False}


def test_readjusting_begins_from_the_long_factors_shrunk():
    first = LongRoPESearch().start(problem(target_length=512, readjusts=LONG)).ask().candidates
    assert [candidate.origin for candidate in first[:3]] == ["pi", "shrunk", "mutation"]  # PI is NTK and YaRN there
    assert first[1].rescale_factors[-1] == 1.25
    assert first[1].start_tokens == 16
    np.testing.assert_allclose(
        np.log(first[1].rescale_factors) / np.log(1.25), np.log(LONG.rescale_factors) / np.log(10)
    )


def test_shrinking_leaves_factors_of_one_alone():
    assert shrunk(Candidate(rescale_factors=(1.0, 1.0)), 1.25).rescale_factors == (1.0, 1.0)


def test_there_must_be_something_to_readjust():
    with pytest.raises(RequestError, match="target_length = 4096: its greatest factor of 10 should be below 10"):
        LongRoPESearch().start(problem(target_length=4096, readjusts=LONG))


def first_extension(rope, window) -> Candidate:
    return problem(rope, window).closed_form(critical_pair=14, top_factor=1.25)


@pytest.mark.parametrize("rope", [TINY, LLAMA3])
def test_the_second_search_composes_with_the_first(rope):
    window = 8 * rope.original_max_position_embeddings
    first = first_extension(rope, window)
    wider = extended(rope, first, window=window)
    found = problem(wider, 8 * window)
    assert found.ratio == 8
    second = found.yarn()
    composed = compose(second, first).scaling(rope)
    np.testing.assert_allclose(composed.inv_freq_P, second.scaling(wider).inv_freq_P, rtol=1e-13)
    assert composed.attention_factor == pytest.approx(second.scaling(wider).attention_factor, rel=1e-15)


def test_an_extended_rope_places_the_closed_forms_where_its_own_pairs_turn():
    first = first_extension(LLAMA3, 131072)
    wider = extended(LLAMA3, first, window=131072)
    turns_P = 131072 * wider.inv_freq_P / (2 * np.pi)
    crossing = pair_at_rotations(wider)
    assert turns_P[int(crossing)] > 1 > turns_P[int(crossing) + 1]
    yarn_P = np.array(problem(wider, 8 * 131072).yarn().rescale_factors)
    assert yarn_P[turns_P < 1].tolist() == [8.0] * int(np.sum(turns_P < 1))


@pytest.mark.parametrize("rope", [TINY, LLAMA3, make_rope(64, 1e4, 10**6), make_rope(64, 1e4, 4)])
def test_a_rope_extended_by_nothing_is_itself(rope):
    window = rope.original_max_position_embeddings
    same = extended(rope, problem(rope, window + 1).vanilla(), window=window)
    assert same.rope_theta == pytest.approx(rope.rope_theta, rel=1e-9)
    np.testing.assert_array_equal(same.inv_freq_P, rope.inv_freq_P)


def test_start_tokens_cannot_be_multiplied():
    plain = problem().yarn()
    for refused in (
        lambda: compose(LONG, plain),
        lambda: compose(plain, LONG),
        lambda: extended(TINY, LONG, window=4096),
    ):
        with pytest.raises(RequestError, match=r"start_tokens = 16: it should be 0 .* search_start_tokens = false"):
            refused()

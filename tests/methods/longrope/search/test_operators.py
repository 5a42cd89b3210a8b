"""The operators keep the constraints whatever they are given, and move every gene they may move."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.longrope.search.operators import Box, cross, draw_start_tokens, mutate, tie_low_pairs
from methods.rope import ntk_tie


@st.composite
def boxed(draw):
    """A box and a list inside of it."""
    n_pairs = draw(st.integers(2, 40))
    low = draw(st.floats(1, 64))
    box = Box.flat(
        n_pairs,
        low,
        low * draw(st.floats(1.001, 3)),
        first=draw(st.integers(0, n_pairs - 1)),
        strict=draw(st.booleans()),
    )
    share = sorted(draw(st.lists(st.floats(0, 1), min_size=n_pairs, max_size=n_pairs, unique=box.strict)))
    factors_P = np.clip(low + np.array(share) * (box.high_P[0] - low), box.low_P, box.high_P)
    return box, np.maximum.accumulate(factors_P)


@given(boxed(), st.integers(0, 2**32), st.floats(0.01, 1))
def test_mutation_keeps_order_bounds_and_the_unsearched(given_box, seed, probability):
    box, factors_P = given_box
    before_P = factors_P.copy()
    held = box.holds(factors_P)
    child_P = mutate(factors_P, box, np.random.default_rng(seed), probability=probability)
    np.testing.assert_array_equal(factors_P, before_P)
    np.testing.assert_array_equal(child_P[: box.first], factors_P[: box.first])
    assert box.holds(child_P) or not held
    again_P = mutate(factors_P, box, np.random.default_rng(seed), probability=probability)
    np.testing.assert_array_equal(child_P, again_P)


@given(boxed(), boxed(), st.integers(0, 2**32))
def test_crossover_yields_only_children_in_the_box(one, other, seed):
    box, first_P = one
    second_P = np.resize(other[1], first_P.shape)
    for child_P in cross(first_P, second_P, box, np.random.default_rng(seed), probability=0.5):
        assert box.holds(child_P)
        assert np.all((child_P == first_P) | (child_P == second_P))
        np.testing.assert_array_equal(child_P[: box.first], first_P[: box.first])
        assert not np.array_equal(child_P, first_P)


def test_mutation_takes_every_grid_value_between_the_neighbours_alike():
    box = Box.flat(3, 1.0, 3.0)
    factors_P = np.array([1.0, 1.5, 1.54])
    generator = np.random.default_rng(0)
    found = [mutate(factors_P, box, generator, probability=1.0) for _ in range(4000)]
    firsts, counts = np.unique([child_P[0] for child_P in found], return_counts=True)
    np.testing.assert_allclose(firsts, np.linspace(1, 1.5, 51))
    assert counts.min() > 40
    assert max(child_P[2] for child_P in found) == 3.0
    assert all(child_P[0] <= child_P[1] <= 1.54 for child_P in found)


def test_each_gene_is_taken_with_the_probability():
    box = Box.flat(50, 1.0, 100.0)
    factors_P = np.linspace(1.5, 99.5, 50)
    generator = np.random.default_rng(1)
    share = np.mean([mutate(factors_P, box, generator, probability=0.3) != factors_P for _ in range(400)])
    assert share == pytest.approx(0.3, abs=0.01)


def test_a_flat_list_moves_at_its_ends_only():
    box = Box.flat(6, 8.0, 16.0)
    child_P = mutate(np.full(6, 11.0), box, np.random.default_rng(3), probability=1.0)
    assert child_P[0] < 11 < child_P[-1]
    assert np.all(np.diff(child_P) >= 0)


def test_the_last_factor_may_be_held_near_its_neighbour():
    box = Box.flat(3, 1.0, 100.0, last_step=4.0)
    found = [mutate(np.full(3, 10.0), box, np.random.default_rng(seed), probability=1.0) for seed in range(200)]
    rises = [child_P[2] - child_P[1] for child_P in found]
    assert 3.5 < max(rises) <= 4


def test_strict_neighbours_differ_by_a_step():
    box = Box.flat(4, 1.0, 2.0, strict=True)
    assert not box.holds(np.array([1.0, 1.0, 1.5, 2.0]))
    for seed in range(50):
        child_P = mutate(np.array([1.0, 1.2, 1.5, 1.9]), box, np.random.default_rng(seed), probability=1.0)
        assert np.diff(child_P).min() > 0.0099


@settings(max_examples=30)
@given(st.integers(1, 31), st.floats(1, 200))
def test_the_tie_is_ntk_below_the_critical_pair_and_leaves_the_rest(critical_pair, top):
    factors_P = np.linspace(top, 2 * top, 32)
    tied_P = tie_low_pairs(factors_P, critical_pair)
    np.testing.assert_array_equal(tied_P[critical_pair:], factors_P[critical_pair:])
    np.testing.assert_array_equal(
        tied_P[:critical_pair], ntk_tie(factors_P[critical_pair], critical_pair, 32)[:critical_pair]
    )
    assert tied_P[0] == 1
    assert np.all(np.diff(tied_P) >= 0)


def test_start_tokens_change_with_the_probability_and_never_to_themselves():
    generator = np.random.default_rng(0)
    found = [draw_start_tokens(4, (0, 4, 64), generator, probability=0.3) for _ in range(3000)]
    assert set(found) == {0, 4, 64}
    assert np.mean(np.array(found) != 4) == pytest.approx(0.3, abs=0.03)
    assert draw_start_tokens(0, (0,), generator, probability=1.0) == 0

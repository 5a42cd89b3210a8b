"""Changes between two runs: their scale, their intervals, their tests, and what would decide."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as reference

from harness import paired
from tests.harness.test_stats import pairs


def test_the_change_of_scores_is_a_difference_and_of_likelihoods_a_ratio():
    assert paired.change([pairs([1, 1, 0, 0], [1, 1, 1, 0])]).value == pytest.approx(-0.25)
    document = pairs([210.0, 420.0], [200.0, 400.0], kind="likelihood", weights=np.array([100.0, 200.0]))
    assert paired.change([document]).value == pytest.approx(math.exp(-0.1) - 1)


def test_a_sum_is_the_mean_of_its_cells_and_of_likelihoods_the_geometric_one():
    cells = [pairs([1, 1], [1, 0], name="a"), pairs([1, 1, 1, 1], [1, 1, 1, 1], name="b")]
    assert paired.change(cells).value == pytest.approx(0.25)
    documents = [
        pairs([110.0, 110.0], [100.0, 100.0], kind="likelihood", weights=np.full(2, 100.0), name="a"),
        pairs([90.0, 90.0], [100.0, 100.0], kind="likelihood", weights=np.full(2, 100.0), name="b"),
    ]
    assert paired.change(documents).value == pytest.approx(0)


@pytest.mark.parametrize(
    ("p", "lost", "gained", "n"), [(0.9, 0.05, 0.0, 500), (0.5, 0.1, 0.1, 100), (0.8, 0.3, 0.1, 40)]
)
def test_the_interval_of_binary_changes_covers_its_level(p, lost, gained, n):
    rng = np.random.default_rng(n)
    true = (1 - p) * gained - p * lost
    covered = []
    for i in range(200):
        base = rng.random(n) < p
        new = np.where(base, rng.random(n) >= lost, rng.random(n) < gained)
        found = paired.change([pairs(new, base, name=str(i))])
        covered.append(found.low <= true <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.985


def test_the_interval_of_likelihoods_covers_its_level():
    rng = np.random.default_rng(6)
    covered = []
    for i in range(400):
        base = 100 * rng.normal(3, 0.3, 8)
        new = base + 100 * rng.normal(0.05, 0.02, 8)
        found = paired.change([pairs(new, base, kind="likelihood", weights=np.full(8, 100.0), name=str(i))])
        covered.append(found.low <= math.exp(-0.05) - 1 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.975


def test_equal_answers_of_the_same_computation_have_no_interval_and_others_do():
    same = paired.change([pairs([1, 0] * 10, [1, 0] * 10, same_computation=True)])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = paired.change([pairs([1, 0] * 10, [1, 0] * 10)])
    assert other.low < -0.05 < 0 < 0.05 < other.high


def test_what_was_not_recorded_moves_both_ends():
    found = paired.change([pairs([1] * 50, [1] * 50, n_expected=100, same_computation=True)])
    assert (found.value, found.low, found.high) == (0, -0.5, 0.5)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([], "no sample was answered in both runs"),
        ([pairs([], [], n_expected=4)], "no sample was answered in both runs"),
        ([pairs([30.0], [20.0], kind="likelihood")], "one document gives no interval"),
        ([pairs([1e9], [20.0], kind="likelihood")], "a likelihood of 0 has no ratio"),
    ],
)
def test_an_unknown_change_says_why(cells, reason):
    found = paired.change(cells)
    assert (found.low, found.high, found.reason) == (None, None, reason)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 6), (7, 25), (10, 10), (3, 1)])
def test_mcnemar_is_scipys_binomial(gained, lost):
    found = paired.sign_tails(gained, lost)
    if gained + lost == 0:
        assert found == (1, 1)
        return
    for tail, alternative in ((found.worse, "less"), (found.better, "greater")):
        expected = reference.binomtest(gained, gained + lost, alternative=alternative).pvalue
        assert tail == pytest.approx(expected)


def test_flipping_equal_changes_is_mcnemar():
    changes = [0.002] * 4 + [-0.002] * 11 + [0] * 50
    assert paired.flip_tails(changes, name="a") == paired.sign_tails(4, 11)
    assert paired.flip_tails([0, 0], name="a") == paired.NO_CHANGE


def test_flipping_unequal_changes_is_the_enumeration_of_all_signs():
    changes = np.array([-0.5, -0.25, 0.1, -0.7, -0.3, -0.2, 0.15, -0.4, -0.35, -0.05])
    sums = np.array([np.dot(signs, np.abs(changes)) for signs in itertools.product((-1, 1), repeat=len(changes))])
    found = paired.flip_tails(changes, name="a")
    assert found.worse == pytest.approx((sums <= changes.sum() + 1e-12).mean(), abs=0.002)
    assert found.better == pytest.approx((sums >= changes.sum() - 1e-12).mean(), abs=0.002)


def test_beyond_what_flips_can_show_the_p_value_is_a_bound():
    changes = -np.linspace(0.1, 1, 100)
    found = paired.flip_tails(changes, name="a")
    assert 0 < 0.5**100 < found.worse < 1e-4
    assert found.better == 1
    assert paired.flip_tails(-changes, name="a") == (1, found.worse)


def test_the_t_test_of_likelihoods_is_scipys():
    rng = np.random.default_rng(0)
    base = 100 * rng.normal(3, 0.3, 12)
    new = base + 100 * rng.normal(0.02, 0.03, 12)
    found = paired.tails([pairs(new, base, kind="likelihood", weights=np.full(12, 100.0))])
    expected = reference.ttest_rel(base, new, alternative="less").pvalue
    assert found.worse == pytest.approx(expected)
    assert found.better == pytest.approx(1 - expected)


def test_equal_runs_are_called_worse_no_more_often_than_the_level_says():
    """10,000 cells of 500 items each, answers flipped at random in both runs."""
    rng = np.random.default_rng(1)
    gained, lost = rng.binomial(500, 0.01, 10_000), rng.binomial(500, 0.01, 10_000)
    assert np.mean(paired.sign_tails(gained, lost).worse <= 0.02) <= 0.02


def test_the_samples_that_decide_do_decide():
    few = pairs([1] * 40, [1] * 40)
    found = paired.change([few])
    assert found.low < -0.02
    needed = paired.samples_to_decide(found, n=40, margin=0.02, error=0.02, unchanged=True)
    assert 60 < needed < 200
    assert paired.change([pairs([1] * needed, [1] * needed)]).low >= -0.022
    assert paired.samples_to_decide(paired.Change(reason="none"), n=4, margin=0.02, error=0.02, unchanged=True) is None
    just = paired.Change(value=-0.0199999999, low=-0.2, high=0.2)
    assert paired.samples_to_decide(just, n=40, margin=0.02, error=0.02, unchanged=False) is None

"""Intervals cover what they say, nothing missing passes for something, and the rules decide as they are worded."""

import math
import time

import numpy as np
import pytest
from scipy import stats as reference

from harness import stats


def sample(values, n_expected=None, kind="binary", weights=None, name="a"):
    values = np.asarray(values, float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    return stats.Sample(name=name, kind=kind, values_N=values, weights_N=weights, n_expected=n_expected or len(values))


def pairs(method, base, n_expected=None, kind="binary", name="a", **fields):
    method, base = np.asarray(method, float), np.asarray(base, float)
    return stats.Pairs(
        name=name,
        kind=kind,
        method_N=method,
        base_N=base,
        weights_N=fields.pop("weights", np.ones(len(base))),
        n_expected=n_expected or len(base),
        **fields,
    )


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (25, 25), (99, 100)])
def test_wilson_is_scipys(k, n):
    expected = reference.binomtest(k, n).proportion_ci(0.9, "wilson")
    assert stats.wilson(k, n, confidence=0.9) == pytest.approx(tuple(expected))
    one_sided = reference.binomtest(k, n, alternative="greater").proportion_ci(0.95, "wilson")
    assert stats.wilson_lower(k, n) == pytest.approx(one_sided.low, abs=1e-12)


def test_perfect_samples_have_the_known_lower_bounds():
    assert stats.wilson(50, 50).low == pytest.approx(0.929, abs=5e-4)
    assert stats.wilson(25, 25).low == pytest.approx(0.867, abs=5e-4)


def _coverage(probabilities, inside):
    return float(probabilities[inside].sum())


@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_wilson_covers_its_level_wherever_an_interval_can(p, n):
    k = np.arange(n + 1)
    probabilities = reference.binom.pmf(k, n, p)
    low, high = stats.wilson(k, n)
    covered = _coverage(probabilities, (low <= p) & (p <= high))
    # Counts are whole, so an interval can only cover the probability of a run of counts.
    sums = np.concatenate([[0], np.cumsum(probabilities)])
    possible = (sums[None, :] - sums[:, None]).ravel()
    if ((possible >= 0.93) & (possible <= 0.97)).any():
        assert 0.93 <= round(covered, 2) <= 0.97
    else:
        assert (p, n) in {(0.99, 20), (0.99, 50)}
        assert covered > 0.9
    assert _coverage(probabilities, stats.wilson_lower(k, n) <= p) >= 0.94


@pytest.mark.parametrize("n", [20, 50, 200])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_the_bootstrap_of_graded_scores_covers_its_level(p, n):
    rng = np.random.default_rng(n)
    repeats = 200 if n < 200 else 100
    drawn = rng.binomial(4, rng.beta(8 * p, 8 * (1 - p), (repeats, n))) / 4
    found = [stats.mean([sample(row, kind="graded", name=str(i))]) for i, row in enumerate(drawn)]
    covered = np.mean([e.low <= p <= e.high for e in found])
    assert 0.91 <= covered <= 0.985  # 95 %, and what so few repeats leave open


def test_the_bootstrap_of_few_documents_covers_its_level():
    rng = np.random.default_rng(8)
    nll = 100 * rng.normal(3, 0.2, (400, 8))
    found = [
        stats.mean([sample(row, kind="likelihood", weights=np.full(8, 100.0), name=str(i))])
        for i, row in enumerate(nll)
    ]
    assert 0.93 <= np.mean([e.low <= math.exp(-3) <= e.high for e in found]) <= 0.97


def test_a_mean_of_tasks_covers_its_level():
    rng = np.random.default_rng(3)
    p = np.linspace(0.6, 0.99, 13)
    covered = []
    for _ in range(600):
        tasks = [sample(rng.random(25) < each) for each in p]
        e = stats.mean(tasks)
        covered.append(e.low <= p.mean() <= e.high)
    assert 0.93 <= np.mean(covered) <= 0.98  # tasks that differ vary less than their pool, never more


@pytest.mark.parametrize(("base", "loss", "n"), [(0.5, 0.1, 200), (0.9, 0.05, 200), (0.99, 0.02, 100), (0.9, 0.1, 25)])
def test_the_ratio_of_pairs_covers_its_level(base, loss, n):
    rng = np.random.default_rng(n)
    covered = []
    for i in range(200):
        b = rng.random((2, n)) < base
        m = b & (rng.random((2, n)) >= loss)
        found = stats.retention([[pairs(m[j], b[j], name=f"{i}-{j}") for j in range(2)]], margin=0.985)
        covered.append(found.low <= 1 - loss <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_a_perfect_sample_is_not_certainty(kind):
    e = stats.mean([sample(np.ones(20), kind=kind)])
    assert e.value == e.high == 1
    assert 0.8 < e.low < 0.9
    found = stats.retention([[pairs(np.ones(20), np.ones(20), kind=kind)]], margin=0.985)
    assert found.value == 1
    assert found.low < 0.95 < 1 < found.high
    assert found.verdict == "undecided"


def test_equal_tasks_are_pooled():
    tasks = [sample([1, 1, 0, 1]), sample([0, 0, 1, 1])]
    assert stats.mean(tasks) == stats.mean([sample([1, 1, 0, 1, 0, 0, 1, 1])])


def test_unequal_tasks_weigh_the_same():
    e = stats.mean([sample([1] * 4), sample([0] * 16)])
    assert e.value == 0.5
    effective = 1 / (0.25 / 4 + 0.25 / 16)
    assert (e.low, e.high) == pytest.approx(tuple(stats.wilson(effective / 2, effective)))


def test_unanswered_samples_widen_both_ends():
    e = stats.mean([sample([1, 1, 1, 0], n_expected=8)])
    assert (e.value, e.counted) == (0.75, 0.375)
    assert e.low == pytest.approx(stats.wilson(3, 8).low)
    assert e.high == pytest.approx(stats.wilson(7, 8).high)
    assert e.lower_bound == pytest.approx(stats.wilson_lower(3, 8))


@pytest.mark.parametrize("kind", ["graded", "likelihood"])
def test_unanswered_samples_widen_a_bootstrap(kind):
    values = [0.5, 0.75, 1.0, 0.25]
    whole, part = stats.mean([sample(values, kind=kind)]), stats.mean([sample(values, 8, kind=kind)])
    assert part.value == whole.value
    assert part.low == pytest.approx(whole.low / 2)
    assert part.high == pytest.approx(whole.high / 2 + 0.5)


def test_nothing_answered_is_none_with_a_reason():
    e = stats.mean([sample([1, 1]), sample([], n_expected=5)])
    assert (e.value, e.low, e.high, e.lower_bound) == (None, None, None, None)
    assert e.reason == "no sample was answered"


def test_one_document_gives_no_interval():
    e = stats.mean([sample([300.0], kind="likelihood", weights=[100.0])])
    assert e.value == pytest.approx(math.exp(-3))
    assert (e.low, e.high, e.reason) == (None, None, "one document gives no interval")


def test_a_likelihood_is_a_mean_over_tokens():
    e = stats.mean([sample([100.0, 900.0], kind="likelihood", weights=[100.0, 300.0])])
    assert e.value == pytest.approx(math.exp(-1000 / 400))


def test_clusters_are_resampled_whole():
    values = np.repeat([0.0, 1.0] * 10, 20)
    sums, sizes = stats.clustered(values, [str(i // 20) for i in range(400)])
    assert (sums.sum(), sizes.tolist()) == (200, [20.0] * 20)
    alone = stats.mean([sample(values, kind="graded")])
    together = stats.mean([sample(sums, kind="graded", weights=sizes, n_expected=400)])
    assert together.value == alone.value == 0.5
    assert together.high - together.low > 4 * (alone.high - alone.low)


def test_the_verdicts():
    assert stats.non_inferiority(0.99, 1.01, margin=0.985) == "retained"
    assert stats.non_inferiority(0.985, 1.0, margin=0.985) == "retained"
    assert stats.non_inferiority(0.9, 0.98, margin=0.985) == "lost"
    assert stats.non_inferiority(0.97, 0.99, margin=0.985) == "undecided"


def test_equal_scores_of_the_same_computation_are_certain():
    found = stats.retention([[pairs([1, 0, 1], [1, 0, 1], same_computation=True)]], margin=0.985)
    assert (found.value, found.low, found.high, found.verdict) == (1, 1, 1, "retained")
    document = pairs([30.0], [30.0], kind="likelihood", same_computation=True)
    assert stats.retention([[document]], margin=0.985).verdict == "retained"


def test_different_scores_of_the_same_computation_are_not():
    found = stats.retention([[pairs([1, 0, 1, 1] * 5, [1, 1, 1, 1] * 5, same_computation=True)]], margin=0.985)
    assert found.low < 0.75 < found.high < 1


def test_retention_by_hand():
    short, long = pairs([1, 1, 0, 0], [1, 1, 1, 0], name="short"), pairs([1, 0], [1, 1], name="long")
    other = pairs([0.5, 0.5], [1.0, 0.5], kind="graded", name="other")
    assert stats.retention([[short, long]], margin=0.985).value == pytest.approx((0.5 + 0.5) / (0.75 + 1))
    both = stats.retention([[short, long], [other]], margin=0.985)
    assert both.value == pytest.approx((1 / 1.75 + 0.5 / 0.75) / 2)


def test_chance_is_taken_off_both_sides():
    cell = pairs([1] * 59 + [0] * 41, [1] * 60 + [0] * 40, chance=0.25)
    found = stats.retention([[cell]], margin=0.985)
    assert found.value == pytest.approx(59 / 60)
    assert found.chance_corrected == pytest.approx(34 / 35)
    assert stats.above_chance(0.25, 0.25) == 0


def test_unanswered_pairs_count_against_and_for():
    whole = stats.retention([[pairs([1] * 100, [1] * 100)]], margin=0.9)
    part = stats.retention([[pairs([1] * 100, [1] * 100, n_expected=125)]], margin=0.9)
    assert whole.verdict == "retained"
    assert part.value == 1
    assert part.low < 0.8 < 1.25 < part.high
    assert part.verdict == "undecided"


@pytest.mark.parametrize(
    ("suites", "reason"),
    [
        ([], "no sample was answered by both this method and the base method"),
        ([[pairs([], [], n_expected=4)]], "no sample was answered by both this method and the base method"),
        ([[pairs([1, 0], [0, 0])]], "the base method scores 0"),
        ([[pairs([30.0], [20.0], kind="likelihood")]], "one document gives no interval"),
    ],
)
def test_unknown_retention_says_why(suites, reason):
    found = stats.retention(suites, margin=0.985)
    assert (found.low, found.high, found.verdict, found.reason) == (None, None, "undecided", reason)


def test_mcnemar_counts_the_discordant():
    found = stats.mcnemar([1, 1, 1, 0, 0, 1], [0, 0, 0, 1, 0, 1])
    assert (found.gained, found.lost) == (3, 1)
    assert found.p_value == pytest.approx(2 * (4 + 1) / 16)  # P(X <= 1) of Binomial(4, 1/2), both tails
    assert stats.mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("passes", "reached"),
    [
        ([(256, True), (512, True), (1024, False)], 512),
        ([(1024, True), (256, True), (512, False)], 256),
        ([(256, False), (512, True)], None),
        ([], None),
    ],
)
def test_the_effective_length_has_no_gap(passes, reached):
    assert stats.effective_length(passes) == reached


@pytest.mark.parametrize("threshold", [0.5, 0.856, 0.9, 0.99])
def test_samples_to_pass_is_the_smallest(threshold):
    n = stats.samples_to_pass(threshold)
    assert stats.wilson_lower(n, n) >= threshold > stats.wilson_lower(n - 1, n - 1)
    assert stats.samples_to_pass(1.0) is None


def test_the_bootstrap_is_quick_and_seeded():
    items = np.random.default_rng(0).random((13, 500, 1))
    started = time.process_time()
    first = [stats.resample_sums(x, name=str(i), n_resamples=10_000) for i, x in enumerate(items)]
    assert time.process_time() - started < 2  # 0.4 s on an idle core
    assert np.array_equal(first[0], stats.resample_sums(items[0], name="0", n_resamples=10_000))
    assert not np.array_equal(first[0], stats.resample_sums(items[0], name="1", n_resamples=10_000))
    assert first[0].mean() == pytest.approx(items[0].sum(), rel=1e-3)

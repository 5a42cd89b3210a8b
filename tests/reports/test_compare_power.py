"""What the gate promises, by simulation: equal runs regress at most 2 % of the time, a bug of 5 points is caught."""

import time
from itertools import pairwise

import numpy as np

from harness import paired, stats
from reports.compare import ERROR, MARGIN, compare
from tests.reports.synthetic import entry, ok, run_data

N = 500


def decided(gained_CK, lost_CK):
    """For C comparisons of K cells with N items each, whether any cell is called regressed: the gate's rule."""
    tails = paired.sign_tails(gained_CK, lost_CK).worse
    moved = gained_CK + lost_CK
    value = (gained_CK - lost_CK) / N
    found = []
    for p, k, change in zip(tails, moved, value, strict=True):
        testable = 0.5**k <= ERROR
        holm = np.ones(len(p))
        holm[testable] = stats.holm(list(p[testable]))
        found.append(bool(((holm <= ERROR) & (change <= -MARGIN)).any()))
    return np.array(found)


def test_equal_runs_are_called_regressed_at_most_2_percent_of_the_time():
    rng = np.random.default_rng(0)
    for flip in (0.002, 0.02, 0.1, 0.25):  # the share of answers that come out otherwise in each run, for no reason
        for n_cells in (1, 13, 78):
            either_way = rng.binomial(N, flip, (2, 2000, n_cells))
            assert decided(*either_way).mean() <= 0.02


def test_a_bug_of_5_points_in_500_items_is_caught():
    rng = np.random.default_rng(1)
    for flip, n_cells in ((0.0, 1), (0.01, 1), (0.0, 78), (0.005, 13)):
        gained, lost = rng.binomial(N, flip, (2, 2000, n_cells))
        lost[:, 0] += rng.binomial(N, 0.05, 2000)
        assert decided(gained, lost).mean() >= 0.95


def _run(rng, *, flip, bug=0.0):
    cells = [entry("yarn", "needle", task, 256, N) for task in ("keys1", "keys4")]
    right = {cell["key"]: np.random.default_rng(7 + i).random(N) < 0.9 for i, cell in enumerate(cells)}
    answers = {key: known ^ (rng.random(N) < flip) for key, known in right.items()}
    first = cells[0]["key"]
    answers[first] = answers[first] & ~(right[first] & (rng.random(N) < bug / 0.9))
    return run_data(
        cells, lambda cell, i: ok(cell, i, float(answers[cell["key"]][i]), output=str(answers[cell["key"]][i]))
    )


def test_the_whole_gate_keeps_both_promises():
    started, rng = time.process_time(), np.random.default_rng(2)
    runs = [_run(rng, flip=0.005) for _ in range(40)]
    equal = [compare(a, b).outcome for a, b in pairwise(runs)]
    assert equal.count("regressed") == 0
    broken = [compare(run, _run(rng, flip=0.005, bug=0.05)).outcome for run in runs]
    assert broken.count("regressed") >= 38
    assert broken.count("pass") == 0
    assert time.process_time() - started < 20


def test_graded_scores_and_likelihoods_keep_the_first_promise():
    rng = np.random.default_rng(3)
    cells = [entry("yarn", "recall", "variables", 256, 100), entry("yarn", "perplexity", "docs", 256, 8)]

    def noisy():
        noise = {cell["key"]: rng.normal(0, 0.1, cell["n_samples"]) for cell in cells}

        def answer(cell, i):
            moved = noise[cell["key"]][i]
            if cell["suite"] == "recall":
                return ok(cell, i, float(np.clip(0.6 + moved, 0, 1)), output=str(moved))
            return ok(cell, i, 0.05, measures={"nll": 200 * (3 + moved), "n_scored_tokens": 200})

        return run_data(cells, answer)

    runs = [noisy() for _ in range(100)]
    outcomes = [compare(a, b).outcome for a, b in pairwise(runs)]
    assert outcomes.count("regressed") <= 5  # 2 of 99 are expected at most; 5 or more would happen once in 20 times

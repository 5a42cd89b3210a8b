"""The gradient search: a curve with an analytic loss for exactness, tiny-llama for the claim."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from harness.errors import RequestError
from methods.base import RopeSpec
from methods.longrope.search.adam import Adam
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.descent import Descent
from methods.longrope.search.evaluator import Ask, Draw, Gradient, Measured, Unit
from methods.longrope.search.fast import FastSearch
from methods.longrope.search.parametrisation import MonotoneCurve
from methods.longrope.search.space import Problem
from methods.longrope.search.starts import closed_forms
from methods.rope import default_inv_freq

BUDGETS = (20, 60, 100, 300, 2000)


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


# The parametrisation


@pytest.mark.parametrize("ratio", [1.02, 4.0, 64.0])
def test_every_closed_form_is_the_curve_of_its_numbers(ratio):
    problem, curve = make_problem(target=round(512 * ratio)), MonotoneCurve()
    for candidate in closed_forms(problem, ("yarn", "none")):
        again = curve.candidate(curve.variables_V(candidate), "")
        np.testing.assert_allclose(again.rescale_factors, candidate.rescale_factors, rtol=1e-9)
        assert again.attention_factor == pytest.approx(candidate.attention_factor)


def test_any_numbers_within_bounds_give_factors_that_begin_at_one_and_never_fall():
    curve, rng = MonotoneCurve(), np.random.default_rng(0)
    for _ in range(50):
        candidate = curve.candidate(curve.within_V(rng.normal(0, 3, 17)), "")
        assert candidate.rescale_factors[0] >= 1
        assert (np.diff(candidate.rescale_factors) >= 0).all()


def test_numbers_below_the_bound_give_factors_of_exactly_one():
    z_V = MonotoneCurve().within_V(np.full(9, -50.0))
    np.testing.assert_allclose(MonotoneCurve().candidate(z_V, "").rescale_factors, 1.0, atol=1e-12)


def test_gradient_agrees_with_finite_differences():
    problem, curve = make_problem(n_pairs=8), MonotoneCurve()
    valley, rng = Valley(problem, noise=0), np.random.default_rng(1)
    z_V = curve.within_V(rng.normal(0, 1.5, 9)) + 0.01

    def loss(z_V):
        return valley.true_loss(curve.candidate(z_V, ""))

    pulled_V = curve.pulled_back_V(z_V, valley.one(curve.candidate(z_V, ""), 1.0, True).gradient)
    for i in range(9):
        step_V = np.eye(9)[i] * 1e-5
        assert pulled_V[i] == pytest.approx((loss(z_V + step_V) - loss(z_V - step_V)) / 2e-5, rel=1e-5, abs=1e-9)


# Adam


def test_adam_divides_the_weighted_mean_by_the_root_of_the_weighted_mean_square():
    adam, gradients = Adam(3, clip=math.inf), np.random.default_rng(0).normal(size=(20, 3))
    for n in range(1, 21):
        step_V = adam.step_V(gradients[n - 1], 0.1)
        mean_V, square_V = (
            np.average(values, axis=0, weights=beta ** np.arange(n - 1, -1, -1.0))
            for values, beta in ((gradients[:n], 0.9), (gradients[:n] ** 2, 0.99))
        )
        np.testing.assert_allclose(step_V, -0.1 * mean_V / (np.sqrt(square_V) + 1e-8), rtol=1e-10)


@pytest.mark.parametrize("outlier", [1e12, math.inf, math.nan])
def test_one_exploding_gradient_moves_little(outlier):
    adam = Adam(2)
    for _ in range(10):
        adam.step_V(np.array([1.0, -1.0]), 0.1)
    moved_V = sum((adam.step_V(np.array([x, x]), 0.1) for x in (outlier, 1e-3, 1e-3)), np.zeros(2))
    assert np.isfinite(moved_V).all()
    assert np.abs(moved_V).max() < 1


def test_a_descent_goes_back_from_a_loss_that_is_not_finite_and_takes_smaller_steps():
    problem = make_problem()
    descent, valley = Descent(problem.yarn(), learning_rate=0.1, moves_attention=True), Valley(problem)
    before = descent.candidate
    descent.tell(valley.one(before, 1.0, True))
    moved = descent.candidate
    descent.tell(Measured(loss=math.nan))
    assert descent.candidate == before != moved
    descent.tell(valley.one(before, 1.0, True))
    assert descent.candidate not in (before, moved)


# The search


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
def test_the_first_is_never_worse_held_out_than_the_best_closed_form_whatever_the_search_documents_say(seed, budget):
    problem = make_problem(seed=seed, budget=budget)
    held, searcher = Held(problem), FastSearch().start(problem)
    run(searcher, held)
    first = held.rounds[0].candidates
    assert problem.yarn() in first
    closed = [c for c in first if not c.origin.startswith("gradient")]
    assert 2 <= len(closed) < len(first)
    stayed = [c for c in closed if all(c in ask.candidates for ask in held.rounds)]
    assert stayed
    found, loss = searcher.ranking()[0]
    assert loss == pytest.approx(held.mean(found))
    assert loss <= min(map(held.mean, stayed)) + 1e-12


def test_held_out_documents_go_to_ever_fewer_finalists():
    problem = make_problem(budget=300.0)
    held, searcher = Held(problem), FastSearch().start(problem)
    run(searcher, held)
    counts = [len(ask.candidates) for ask in held.rounds]
    assert counts[0] >= 7
    assert counts == [counts[0], *((n + 1) // 2 for n in counts[:-1])]
    assert 2 <= counts[-1] <= 3
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


def _negative(gradient: Gradient) -> Gradient:
    return Gradient(
        log_rescale_factors_P=-gradient.log_rescale_factors_P, log_attention_factor=-gradient.log_attention_factor
    )


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

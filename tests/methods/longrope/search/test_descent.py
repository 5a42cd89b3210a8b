"""Gradient steps: the curve as free numbers, Adam, and what a descent does with a loss that is not finite."""

import math

import numpy as np
import pytest

from methods.longrope.search.adam import Adam
from methods.longrope.search.descent import Descent
from methods.longrope.search.evaluator import Measured
from methods.longrope.search.parametrisation import MonotoneCurve
from methods.longrope.search.starts import closed_forms
from tests.methods.longrope.search.valley import Valley, make_problem

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

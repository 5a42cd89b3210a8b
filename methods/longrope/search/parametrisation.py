"""Monotone rescale factors as free numbers, for gradient steps. Shape letters: P rotary pairs, V = P + 1 variables."""

import math
from dataclasses import dataclass

import numpy as np

from methods.base import FloatArray
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Gradient


@dataclass(frozen=True, kw_only=True)
class MonotoneCurve:
    """Factors that begin at 1 or above and never fall, and an attention factor, as P + 1 numbers.

    log factor i = sum over j <= i of (softplus(z_j) - closed), log attention factor = attention_scale * z_P, and
    z_j >= log(e^closed - 1), where a rise is exactly 0. So flat parts are exactly flat, and a rise still has a
    gradient there: about `closed` of its full one.

    closed: softplus where the rise is 0. attention_scale: what one step does there against one of a rise.
    """

    closed: float = 0.01
    attention_scale: float = 0.15

    def variables_V(self, candidate: Candidate) -> FloatArray:
        """The numbers of a candidate; factors that fall, or are below 1, are raised to the highest before them."""
        logs_P = np.maximum.accumulate(np.log(np.maximum(candidate.rescale_factors, 1.0)))
        softplus_P = np.diff(logs_P, prepend=0.0) + self.closed
        z_P = softplus_P + np.log(-np.expm1(-softplus_P))
        return np.append(z_P, math.log(candidate.attention_factor) / self.attention_scale)

    def within_V(self, z_V: FloatArray) -> FloatArray:
        """The nearest numbers that stand for a curve."""
        lowest = self.closed + math.log(-math.expm1(-self.closed))
        return np.append(np.maximum(z_V[:-1], lowest), z_V[-1])

    def candidate(self, z_V: FloatArray, origin: str) -> Candidate:
        """The candidate of numbers that stand for a curve."""
        rises_P = np.maximum(np.logaddexp(0.0, z_V[:-1]) - self.closed, 0.0)
        with np.errstate(over="ignore"):  # an infinite factor is no sound candidate, which its reader sees
            factors_P = np.exp(np.cumsum(rises_P))
            attention = float(np.exp(self.attention_scale * z_V[-1]))
        return Candidate(rescale_factors=tuple(factors_P.tolist()), attention_factor=attention, origin=origin)

    def pulled_back_V(self, z_V: FloatArray, gradient: Gradient) -> FloatArray:
        """The gradient in the numbers, from the one in the logarithms of the factors."""
        slopes_P = np.exp(-np.logaddexp(0.0, -z_V[:-1]))
        in_rises_P = np.cumsum(gradient.log_rescale_factors_P[::-1])[::-1]
        return np.append(in_rises_P * slopes_P, gradient.log_attention_factor * self.attention_scale)

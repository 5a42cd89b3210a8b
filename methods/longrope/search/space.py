"""The problem that a search solves, and the closed forms it starts from. Shape letters: P rotary pairs."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from harness.errors import RequestError
from methods.base import AbstractRopeMethod, FloatArray, RopeSpec
from methods.longrope.methods import LongRoPE2ClosedForm
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw, Split, Unit
from methods.ntk import NTK
from methods.position_interpolation import PositionInterpolation
from methods.rope import (
    AttentionPolicy,
    attention_factor,
    lowest_critical_pair,
    theoretical_critical_pair,
)
from methods.vanilla import Vanilla
from methods.yarn import YaRN


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One model's RoPE, the length it shall reach, and what may be spent on it.

    unit: what the budget is counted in. n_documents: of an evaluation.
    fresh: new documents for each generation or step; else the same ones throughout.
    budget: forward-equivalents; a search ends within it, its last re-ranking included.
    readjusts: what the model is extended with already, where the search is for a shorter length (LongRoPE's factors for
        short contexts); the target may lie inside the window then, and the attention factor stays.
    Raises RequestError where there is nothing to search.
    """

    rope: RopeSpec
    target_length: int
    unit: Unit
    n_documents: int
    fresh: bool = True
    seed: int = 0
    budget: float = 300.0
    readjusts: Candidate | None = None

    def __post_init__(self) -> None:
        if self.n_pairs < 2 or not self.rope.inv_freq_P.any():
            raise RequestError(f"the model turns {self.n_pairs} rotary pairs: a search needs at least 2 that turn")
        if self.readjusts is None and self.target_length <= self.window:
            raise RequestError(
                f"target_length = {self.target_length}: it should be above the model's window of {self.window} tokens"
            )
        for name, least in (("target_length", 1), ("n_documents", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} = {getattr(self, name)}: it should be at least {least}")
        if self.readjusts is not None and len(self.readjusts.rescale_factors) != self.n_pairs:
            raise RequestError(
                f"there are {len(self.readjusts.rescale_factors)} factors to readjust, the model has {self.n_pairs} "
                "rotary pairs: it should be one factor a pair"
            )
        if not 0 < self.budget < math.inf:
            raise RequestError(f"budget = {self.budget:g}: it should be a positive number of forward-equivalents")

    @property
    def window(self) -> int:
        """Tokens of the trained window."""
        return self.rope.original_max_position_embeddings

    @property
    def ratio(self) -> float:
        """Target length over the window; above 1, and 1 where short contexts are readjusted inside the window."""
        return self.rope.extension_ratio(self.target_length)

    @property
    def n_pairs(self) -> int:
        """Rotary pairs of a head."""
        return len(self.rope.inv_freq_P)

    @property
    def theoretical_critical_pair(self) -> int:
        """The first pair that sees no full turn in training, kept among the model's pairs but the first."""
        return self._among_pairs(theoretical_critical_pair(self.rope))

    @cached_property
    def critical_pairs(self) -> range:
        """The candidates for the real critical pair: from the one that turns ten times to the theoretical one.

        Source: arXiv:2502.20082 algorithm 1.
        """
        return range(self._among_pairs(lowest_critical_pair(self.rope)), self.theoretical_critical_pair + 1)

    def attention_factor(self, policy: AttentionPolicy) -> float:
        """What a policy (`none`, `su`, `yarn`, or a number) makes of this ratio and window.

        One attention factor serves short and long contexts, so where factors are readjusted it is theirs.
        """
        if self.readjusts is not None:
            return self.readjusts.attention_factor
        return attention_factor(policy, ratio=self.ratio, window=self.window)

    def draw(self, split: Split = "search", *, block: int = 0, n_documents: int | None = None) -> Draw:
        """Documents of the target length; an evaluation's number of them unless told."""
        return Draw(split=split, block=block, seq_len=self.target_length, n_documents=n_documents or self.n_documents)

    def cost(self, ask: Ask) -> float:
        """What a question takes, in forward-equivalents."""
        return ask.cost(self.unit)

    def vanilla(self) -> Candidate:
        """The model's own RoPE."""
        return self._candidate(Vanilla(), "vanilla", "none")

    def pi(self, *, attention: AttentionPolicy = "none") -> Candidate:
        """Position interpolation; its authors use no attention factor."""
        return self._candidate(PositionInterpolation(target_length=self.target_length), "pi", attention)

    def ntk(self, *, attention: AttentionPolicy = "none") -> Candidate:
        """NTK-aware scaling tied at the last pair; its authors use no attention factor."""
        return self._candidate(NTK(target_length=self.target_length), "ntk", attention)

    def yarn(self, *, attention: AttentionPolicy = "yarn") -> Candidate:
        """YaRN with its authors' ramp."""
        return self._candidate(YaRN(target_length=self.target_length), "yarn", attention)

    def closed_form(
        self,
        *,
        critical_pair: int,
        top_factor: float,
        start_pair: int = 0,
        slope: float = 0.0,
        attention: AttentionPolicy = "su",
    ) -> Candidate:
        """LongRoPE2's shape: 1 up to the start pair, rising to `top_factor` times the ratio at the critical pair."""
        shape = LongRoPE2ClosedForm(
            target_length=self.target_length,
            critical_pair=critical_pair,
            top_factor=top_factor,
            start_pair=start_pair,
            slope=slope,
        )
        made = self._candidate(shape, f"closed_form({start_pair}, {critical_pair}, {top_factor:g})", attention)
        return replace(made, critical_pair=critical_pair)

    def _candidate(self, method: AbstractRopeMethod, origin: str, attention: AttentionPolicy) -> Candidate:
        scaling = method.rope_scaling(self.rope, seq_len=self.target_length)
        factors_P = scaling.rescale_factors_P(self.rope)
        turns_P = self.rope.inv_freq_P != 0
        factors_P[~turns_P] = factors_P[turns_P].max()  # any factor is the same there; this one keeps them in order
        return Candidate(
            rescale_factors=tidy(factors_P), attention_factor=self.attention_factor(attention), origin=origin
        )

    def _among_pairs(self, pair: int) -> int:
        return min(max(pair, 1), self.n_pairs - 1)


def tidy(factors_P: FloatArray) -> tuple[float, ...]:
    """To 12 digits: what dividing frequencies leaves in the last bits would break equal neighbours' order."""
    return tuple(float(f"{factor:.12g}") for factor in np.asarray(factors_P).tolist())

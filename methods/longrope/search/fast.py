"""The gradient search: a race of closed forms, gradient steps from the best, and a choice on held-out documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Gradient, Measured
from methods.longrope.search.space import Problem
from methods.longrope.search.stages import GradientSearch
from methods.rope import AttentionPolicy, check_attention

Ranked = tuple[Candidate, float]


@dataclass(frozen=True, kw_only=True)
class FastSearch:
    """Gradient search; a gradient is local, so a race of closed forms chooses where it starts.

    1. YaRN, PI, NTK and a grid of LongRoPE2's shapes, first on short documents, the better ones on ever more long ones.
    2. Adam on monotone factors and the attention factor, from a few starts, then from the best of them.
    3. Where `polish` is set: mutations of the iterates' mean by LongRoPE2's operator.
    4. The last iterate, means of iterates, what the polish found, and the best closed forms, on held-out documents:
       in rounds, the better half and every closed form going on to more. A small budget has fewer, on enough documents.
    The race and the last choice have 20 % of the budget each; documents are drawn anew for each question, unless they
    are fixed.

    documents_a_step: of a gradient step, and of the race's smallest question; a quarter of an evaluation's by default.
    learning_rate: of a rise of the log factors; it falls to a tenth over the last descent.
    n_descents: the most starts that gradient steps are tried from; a small budget tries fewer.
    short_share: the length of the race's first documents over the target's, but at least the window.
    polish: its share of the budget.
    attention: `searched`, or fixed for all candidates to a policy or a number.
    n_held_out: the most held-out documents of the last choice.
    short_guard: the last choice puts behind the others what raises the loss of plain text inside the window by more
        nats a token than this, against the model's own RoPE. Only for factors that will serve inside the window too;
        LongRoPE2 keeps the model's own RoPE there.
    """

    name: ClassVar[str] = "fast"
    version: ClassVar[int] = 3  # raised when the same settings ask other questions

    documents_a_step: int | None = None
    learning_rate: float = 0.04
    n_descents: int = 3
    short_share: float = 0.25
    polish: float = 0.0
    attention: Literal["searched", "none", "su", "yarn"] | float = "searched"
    n_held_out: int = 256
    short_guard: float | None = None

    def __post_init__(self) -> None:
        for name in ("documents_a_step", "n_descents", "n_held_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: it should be at least 1")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate = {self.learning_rate:g}: it should be above 0 and at most 1")
        if not 0 < self.short_share <= 1:
            raise ValueError(f"short_share = {self.short_share:g}: it should be above 0 and at most 1")
        if not 0 <= self.polish <= 0.25:
            raise ValueError(f"polish = {self.polish:g}: it should be a share of the budget, from 0 to 0.25")
        if self.short_guard is not None and not 0 <= self.short_guard < math.inf:
            raise ValueError(f"short_guard = {self.short_guard:g}: it should be 0 or more nats a token")
        check_attention(None if self.attention == "searched" else self.attention)

    @property
    def attentions(self) -> tuple[AttentionPolicy, ...]:
        """The attention factors that closed forms are tried with."""
        return ("yarn", "su", "none") if self.attention == "searched" else (self.attention,)

    def start(self, problem: Problem) -> "Fast":
        """A search. Raises RequestError, saying the least, for a budget that is too small."""
        return Fast(self, problem)


class Fast:
    """A search in progress (see `evaluator.Searcher`).

    Its state is every answer so far: a search is a pure function of them, and restoring goes through it again.
    """

    def __init__(self, settings: FastSearch, problem: Problem) -> None:
        self._settings, self._problem = settings, problem
        self._begin()

    def _begin(self) -> None:
        self._search = GradientSearch(self._settings, self._problem)
        self._steps = self._search.steps()
        self._answers: list[list[Any]] = []
        self._ask: Ask | None = next(self._steps)

    def ask(self) -> Ask | None:
        """What to measure next; None when the search is over."""
        return self._ask

    def tell(self, measured: Sequence[Measured]) -> None:
        """The answers to the last `ask`, in its order."""
        self._take([_as_json(found) for found in measured])

    def ranking(self) -> Sequence[Ranked]:
        """Best first; after the last question by its held-out documents."""
        return list(self._search.ranking)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {"algorithm": FastSearch.name, "answers": list(self._answers)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises RequestError for the state of another search."""
        if state.get("algorithm") != FastSearch.name:
            raise RequestError(
                f"the state is of the algorithm '{state.get('algorithm')}': it should be of '{FastSearch.name}'"
            )
        self._begin()
        try:
            for answer in state["answers"]:
                self._take(answer)
        except ValueError as error:
            raise RequestError(f"the state is of a search with other settings: {error}") from error

    def _take(self, answer: list[Any]) -> None:
        n_asked = len(self._ask.candidates) if self._ask else 0
        if len(answer) != n_asked:
            raise ValueError(f"{len(answer)} answers to {n_asked} questions")
        self._answers.append(answer)
        try:
            self._ask = self._steps.send([_from_json(table) for table in answer])
        except StopIteration:
            self._ask = None


def _as_json(found: Measured) -> dict[str, Any] | None:
    """What a search reads of an answer; None for one without a usable number."""
    if found.failed:
        return None
    gradient = found.gradient
    if gradient is None:
        return {"loss": found.loss}
    return {
        "loss": found.loss,
        "log_rescale_factors_P": np.asarray(gradient.log_rescale_factors_P).tolist(),
        "log_attention_factor": gradient.log_attention_factor,
    }


def _from_json(table: dict[str, Any] | None) -> Measured:
    if table is None:
        return Measured(loss=math.nan)
    gradient = None
    if "log_rescale_factors_P" in table:
        gradient = Gradient(
            log_rescale_factors_P=np.array(table["log_rescale_factors_P"]),
            log_attention_factor=table["log_attention_factor"],
        )
    return Measured(loss=table["loss"], gradient=gradient)

"""The seam between what proposes candidates and what measures them.

A searcher asks, an evaluator measures, the loop tells the searcher. Searchers are plain numbers: they load neither
torch nor a model, and their state is JSON. Shape letters: P rotary pairs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from methods.base import FloatArray
from methods.longrope.search.candidate import Candidate

Split = Literal["search", "held_out", "test"]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Which documents a measurement is made on: the same draw gives the same documents, in any process.

    split: `search` for proposing, `held_out` for choosing among the best, `test` for what is reported and never
        chosen by. block: tells fresh documents of one split apart. seq_len: tokens of each document, answer included.
    """

    split: Split = "search"
    block: int = 0
    seq_len: int
    n_documents: int


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A forward-equivalent: one forward pass over the documents of one evaluation at the target length.

    n_tokens: of those documents together; shorter documents count by their tokens.
    gradient_passes: what forward and backward cost: 3, or 4 where activations are computed again.
    """

    n_tokens: int
    gradient_passes: int = 3


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Candidates to be measured on the same documents.

    measure: `loss` is the objective; `gradient` the objective and its gradient; `short_loss` the mean negative
        log-likelihood of plain text inside the window, whatever the objective is.
    """

    candidates: tuple[Candidate, ...]
    draw: Draw
    measure: Literal["loss", "gradient", "short_loss"] = "loss"

    def cost(self, unit: "Unit") -> float:
        """What it takes, in forward-equivalents."""
        passes = unit.gradient_passes if self.measure == "gradient" else 1
        return passes * len(self.candidates) * self.draw.n_documents * self.draw.seq_len / unit.n_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradient:
    """The gradient of a loss in the logarithms of the rescale factors (P) and of the attention factor."""

    log_rescale_factors_P: FloatArray
    log_attention_factor: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What an evaluator found for one candidate: mean negative log-likelihood an answer token, in nats.

    loss: NaN where the model gave numbers that are not finite: that ends the candidate, not the search.
    losses: the same for each document.
    """

    loss: float
    losses: tuple[float, ...] = ()
    gradient: Gradient | None = None

    @property
    def failed(self) -> bool:
        """Whether the candidate gave no usable number."""
        return not math.isfinite(self.loss)


class Evaluator(Protocol):
    """Measures candidates; holds the model and makes the documents."""

    def measure(self, ask: Ask) -> Iterable[Measured]:
        """One for each candidate, in their order; some may be there before the last one is.

        Raises RequestError where the documents cannot be made.
        """
        ...


class Searcher(Protocol):
    """Proposes and is told. Deterministic by its seed: the same answers give the same questions."""

    def ask(self) -> Ask | None:
        """What to measure next; None when the search is over. Asking again before `tell` gives the same."""
        ...

    def tell(self, measured: Sequence[Measured]) -> None:
        """The answers to the last `ask`, in its order."""
        ...

    def ranking(self) -> Sequence[tuple[Candidate, float]]:
        """The best candidates so far with the loss they are ranked by, best first; empty before the first answer."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, generators included, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state` was taken."""
        ...

"""What a search came to: values only, for the factors file and the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.types import JSON
from methods.base import RopeSpec
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Draw


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchFacts:
    """What was searched for, and what names it.

    key: sha256 of everything that moves a number. model_identity: name -> sha256 of the model's files.
    algorithm: its name. settings: the algorithm's own. objective: how documents are made and what is measured.
    artifacts: name -> sha256 of the objective's texts. n_documents: of an evaluation. budget: forward-equivalents.
    """

    title: str
    preset: str
    key: str
    model: str
    model_identity: Mapping[str, str]
    dtype: str
    attention: str
    rope: RopeSpec
    target_length: int
    algorithm: str
    settings: Mapping[str, JSON]
    objective: Mapping[str, JSON]
    artifacts: Mapping[str, str]
    n_documents: int
    budget: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A candidate and what it reached. NaN: the model gave numbers that are not finite.

    held_out_loss: on the documents the last choice was made on. test_loss: on those nothing was chosen by; test_losses:
    the same for each document, for a standard error.
    """

    candidate: Candidate
    held_out_loss: float
    test_loss: float
    test_losses: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The best candidate when so much was spent.

    search_loss: what the searcher ranks it by. test_loss: None where it was not measured at this point.
    """

    forward_equivalents: float
    search_loss: float
    test_loss: float | None
    candidate: Candidate


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One measurement of the search, in the order they were made.

    loss: NaN where the model gave numbers that are not finite. forward_equivalents: spent when it was there.
    measure: as in `evaluator.Ask`.
    """

    candidate: Candidate
    loss: float
    draw: Draw
    measure: str
    forward_equivalents: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchOutcome:
    """A finished search.

    references: the closed forms that stand beside the result, by method name; measured on the same documents.
    held_out: the documents of the last choice; several draws are told as one with all their documents.
    test: those of the report, which hold needles whatever the objective.
    splits: haystack -> what keeps these and the search's own documents apart, see `haystacks.Dealt`.
    spent: forward-equivalents of the search itself; what was measured for the report alone is `unpaid`.
    seconds: all of it, pauses left out.
    """

    facts: SearchFacts
    best: Judged
    references: Mapping[str, Judged]
    curve: tuple[CurvePoint, ...]
    tried: tuple[Tried, ...]
    held_out: Draw
    test: Draw
    splits: Mapping[str, str] = field(default_factory=dict)
    spent: float
    unpaid: float
    seconds: float
    environment: Mapping[str, JSON]

"""The loop between a searcher and an evaluator: ask, measure what is new, tell, save; and what the report shows."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness.errors import RequestError
from harness.types import JSON
from methods.longrope.search.archive import Archive, plain
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw, Evaluator, Measured, Searcher, Unit
from methods.longrope.search.outcome import CurvePoint, Judged, SearchFacts, SearchOutcome, Tried
from methods.longrope.search.state import Ending, SearchFolder, SearchState

_SLACK = 1e-9  # of the budget: sums of costs are rounded


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a search is, as a person follows it.

    stage: what the documents of the question are for. done, asked: candidates of this question.
    best_loss: what the searcher ranks its best by; None before the first answer. yarn_loss: YaRN's on the same split.
    """

    stage: str
    done: int
    asked: int
    n_asks: int
    spent: float
    budget: float
    best_loss: float | None
    test_loss: float | None
    yarn_test_loss: float | None


class Progress(Protocol):
    """Who is told what happens; see `methods.longrope.search.progress`."""

    def says(self, what: str) -> None: ...  # noqa: D102
    def follows(self, status: Status) -> None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What is measured for the report alone; the budget does not pay for it, and nothing is chosen by it.

    test_documents: the best candidate and the closed forms are measured on so many documents of their own.
    curve_points: how often the best is measured on them on the way.
    """

    test_documents: int = 32
    curve_points: int = 10

    def __post_init__(self) -> None:
        for name in ("test_documents", "curve_points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: it should be at least 1")


def search(
    searcher: Searcher,
    evaluator: Evaluator,
    *,
    facts: SearchFacts,
    unit: Unit,
    references: Mapping[str, Candidate],
    report: ReportSettings,
    splits: Mapping[str, str],
    folder: SearchFolder,
    progress: Progress,
    environment: Callable[[], Mapping[str, JSON]],
    judge: Evaluator | None = None,
    group_size: int = 1,
    save_every_s: float = 1.0,
) -> SearchOutcome:
    """Search to the end, going on behind what the folder holds; the folder should be `opened`.

    splits: haystack -> what keeps its splits apart.
    judge: measures the test documents; the evaluator itself unless the objective is not what the report shows.
    group_size: candidates handed to the evaluator at once: all of a question's where it measures many side by side.
    save_every_s: how often the state is written between two answers; after an answer it always is.
    Raises RequestError for a question beyond the budget, and where no candidate gave a finite loss.
    """
    state = folder.read(facts, unit) or SearchState(archive=Archive(unit))
    found = state.outcome(facts)
    if found is not None:
        return found
    if state.searcher is not None:
        searcher.restore(state.searcher)
    work = _Work(
        searcher=searcher,
        evaluator=evaluator,
        judge=judge or evaluator,
        facts=facts,
        report=report,
        splits=splits,
        folder=folder,
        progress=progress,
        state=state,
        references=references,
        group_size=group_size,
        save_every_s=save_every_s,
    )
    work.begin()
    while (ask := searcher.ask()) is not None:
        work.answer(ask)
    return work.finish(environment())


@dataclass(kw_only=True, eq=False)
class _Work:
    searcher: Searcher
    evaluator: Evaluator
    judge: Evaluator
    facts: SearchFacts
    report: ReportSettings
    splits: Mapping[str, str]
    folder: SearchFolder
    progress: Progress
    state: SearchState
    references: Mapping[str, Candidate]
    group_size: int
    save_every_s: float
    clock: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    n_asks: int = 0

    @property
    def archive(self) -> Archive:
        return self.state.archive

    @property
    def test(self) -> Draw:
        """The documents of the report."""
        n, seq_len = self.report.test_documents, self.facts.target_length
        return Draw(split="test", seq_len=seq_len, n_documents=n)

    def begin(self) -> None:
        """What is measured before the first question: the closed forms, on the report's documents."""
        self.progress.says("measuring the closed forms on the test documents")
        self._known(Ask(candidates=tuple(self.references.values()), draw=self.test), paid=False)
        self.state.searcher = self._snapshot()
        self.save()

    def answer(self, ask: Ask) -> None:
        """Measure what is new, tell the searcher, and save; a stop anywhere in it repeats no measurement."""
        self.n_asks += 1
        self._check_budget(ask)
        self.searcher.tell(self._known(ask, paid=True))
        self._draw_curve()
        self.state.searcher = self._snapshot()
        self.save()

    def finish(self, environment: Mapping[str, JSON]) -> SearchOutcome:
        """The last measurements, on the documents of the last choice and on the report's."""
        ranking = self.searcher.ranking()
        if not ranking:
            raise RequestError(f"algorithm '{self.facts.algorithm}' ended without a candidate: its budget is too small")
        best = ranking[0][0]
        if not math.isfinite(ranking[0][1]):
            raise RequestError("no candidate gave a finite loss: the model may not be usable at this length or dtype")
        held_out = self._held_out(best)
        self.progress.says("measuring the result beside the closed forms")
        for draw in (*held_out, self.test):
            self._known(Ask(candidates=(best, *self.references.values()), draw=draw), paid=False)
        judged = {name: self._judged(candidate, held_out) for name, candidate in {"": best, **self.references}.items()}
        self._draw_curve(last=True)
        self.state.ending = Ending(
            best=judged.pop(""),
            references=judged,
            held_out=replace(held_out[0], n_documents=sum(draw.n_documents for draw in held_out)),
            test=self.test,
            splits=self.splits,
            environment=environment,
        )
        self.save()
        outcome = self.state.outcome(self.facts)
        assert outcome is not None
        return outcome

    def save(self) -> None:
        """Write the state, the time worked so far in it."""
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now
        self.folder.write(self.facts, self.state)
        self.saved = time.monotonic()

    def _snapshot(self) -> dict[str, Any]:
        """The searcher's state as it will be read back."""
        snapshot: dict[str, Any] = json.loads(json.dumps(self.searcher.state()))
        return snapshot

    def _check_budget(self, ask: Ask) -> None:
        cost, left = self.archive.cost(self.archive.missing(ask)), self.facts.budget - self.archive.spent
        if cost > left + _SLACK * self.facts.budget:
            raise RequestError(
                f"algorithm '{self.facts.algorithm}' asks for {cost:g} forward-equivalents with {left:g} of "
                f"{self.facts.budget:g} left: a search should end within its budget"
            )

    def _known(self, ask: Ask, *, paid: bool) -> list[Measured]:
        """The answers to a question, measured where they are not known yet."""
        evaluator = self.judge if ask.draw.split == "test" else self.evaluator
        todo = self.archive.missing(ask).candidates
        for start in range(0, len(todo), self.group_size):
            if paid:
                self._show(ask, len(ask.candidates) - len(todo) + start)
            group = replace(ask, candidates=todo[start : start + self.group_size])
            measured = zip(group.candidates, evaluator.measure(group), strict=True)
            for at, (candidate, found) in enumerate(measured, start=start + 1):
                self.archive.add(replace(ask, candidates=(candidate,)), [plain(found)], paid=paid)
                if time.monotonic() - self.saved >= self.save_every_s:
                    self.save()
                if paid and at < start + len(group.candidates):
                    self._show(ask, len(ask.candidates) - len(todo) + at)
        return self.archive.answers(ask)

    def _loss(self, candidate: Candidate, draw: Draw) -> float:
        return self._known(Ask(candidates=(candidate,), draw=draw), paid=False)[0].loss

    def _judged(self, candidate: Candidate, held_out: Sequence[Draw]) -> Judged:
        losses = [self._loss(candidate, draw) * draw.n_documents for draw in held_out]
        held_out_loss = math.fsum(losses) / sum(draw.n_documents for draw in held_out)
        (test,) = self._known(Ask(candidates=(candidate,), draw=self.test), paid=False)
        return Judged(candidate=candidate, held_out_loss=held_out_loss, test_loss=test.loss, test_losses=test.losses)

    def _held_out(self, best: Candidate) -> tuple[Draw, ...]:
        """The documents of the last choice: those that the best was held out on, in one draw or several."""
        draws = [
            entry.draw
            for entry in self.archive
            if entry.draw.split == "held_out" and entry.measure == "loss" and entry.candidate.key == best.key
        ]
        default = Draw(split="held_out", seq_len=self.facts.target_length, n_documents=self.facts.n_documents)
        return tuple(draws) or (default,)

    def _draw_curve(self, *, last: bool = False) -> None:
        """A point where the best or its loss changed; on the test documents at about every share of the budget."""
        ranking = self.searcher.ranking()
        if not ranking:
            return
        best, loss = ranking[0]
        spent, curve, ask = self.archive.spent, self.state.curve, Ask(candidates=(best,), draw=self.test)
        tested = [point.forward_equivalents for point in curve if point.test_loss is not None]
        due = last or not tested or spent - tested[-1] >= self.facts.budget / self.report.curve_points
        known = self.archive.get(best, ask)
        test_loss = self._loss(best, self.test) if due else None if known is None else known.loss
        point = CurvePoint(forward_equivalents=spent, search_loss=float(loss), test_loss=test_loss, candidate=best)
        if due or not curve or replace(point, forward_equivalents=curve[-1].forward_equivalents) != curve[-1]:
            curve.append(point)

    def _show(self, ask: Ask, done: int) -> None:
        yarn = self.references.get("yarn")
        ranking = self.searcher.ranking()
        known = yarn and self.archive.get(yarn, Ask(candidates=(), draw=self.test))
        tested = [point.test_loss for point in self.state.curve if point.test_loss is not None]
        self.progress.follows(
            Status(
                stage=_stage(ask),
                done=done,
                asked=len(ask.candidates),
                n_asks=self.n_asks,
                spent=self.archive.spent,
                budget=self.facts.budget,
                best_loss=float(ranking[0][1]) if ranking else None,
                test_loss=tested[-1] if tested else None,
                yarn_test_loss=known.loss if known else None,
            )
        )


def _stage(ask: Ask) -> str:
    what = {"loss": "candidates", "gradient": "gradients", "short_loss": "short texts"}[ask.measure]
    where = "" if ask.draw.split == "search" else f", {ask.draw.split.replace('_', ' ')}"
    return f"{what} at {ask.draw.seq_len} tokens{where}"


__all__ = [
    "CurvePoint",
    "Judged",
    "Progress",
    "ReportSettings",
    "SearchFacts",
    "SearchOutcome",
    "Status",
    "Tried",
    "search",
]

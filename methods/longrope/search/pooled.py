"""An evaluator whose candidates are measured by many workers. Knows no Ray, and loads neither torch nor a model.

A worker measures one whole candidate at a time, so that a sum over its documents is the sum that one process makes.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.cluster.driver import Loss, check_versions
from harness.cluster.worker import Facts
from harness.errors import RequestError
from harness.types import JSON
from methods.longrope.search.evaluator import Ask, Measured

STRIKES = 2  # workers that a candidate may take with it
_STARTS = 3  # times that each worker that starts or loads may be lost before any is ready
_GROW_S = 1.0  # between two looks for room
_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Task:
    """One candidate to measure. judges: on needles, whatever objective the search minimises."""

    ask: Ask
    judges: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker says: what it measured, or nothing once its model is loaded.

    leaving: why it does nothing more. blame: what it measured may be the reason.
    """

    measured: Measured | None = None
    leaving: str = ""
    blame: bool = False


Event = Facts | Answer | Loss


class Pool(Protocol):
    """Where workers live. A worker that starts says its facts; each `send` is answered once.

    `events` raises RequestError for what a worker refuses.
    """

    def room(self) -> int:
        """How many workers there is room for, those that are there included."""
        ...

    def start(self) -> int: ...  # noqa: D102
    def stop(self, worker: int) -> None: ...  # noqa: D102

    def send(self, worker: int, task: Task | None) -> None:
        """A candidate to measure; None: the model to load."""
        ...

    def events(self, timeout_s: float) -> Sequence[tuple[int, Event]]: ...  # noqa: D102


@dataclass(kw_only=True, eq=False)
class _Work:
    """One question. waiting: places of the candidates that nobody measures. found: answers that were not given yet."""

    tasks: Sequence[Task]
    waiting: deque[int]
    found: dict[int, Measured] = field(default_factory=dict)
    strikes: Counter[int] = field(default_factory=Counter)


@dataclass(kw_only=True, eq=False)
class _Seat:
    """A worker. ready: its model is loaded. holds: what it measures."""

    facts: Facts | None = None
    ready: bool = False
    holds: tuple[_Work, int] | None = None


class Workers:
    """Measures on a pool, with as many workers as there is room and work for; they keep what they loaded.

    versions: what every worker must have. says: is told, in a line, who joins and who was lost. works: is told how many
    workers measure.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        versions: Mapping[str, str],
        says: Callable[[str], None] = lambda what: None,
        works: Callable[[int], None] = lambda n_workers: None,
    ) -> None:
        self._pool, self._versions, self._says, self._works = pool, versions, says, works
        self._seats: dict[int, _Seat] = {}
        self._n_ready = self._failed_starts = 0
        self._grown = 0.0
        self.environment: Mapping[str, JSON] = {}

    def measure(self, ask: Ask, *, judges: bool = False) -> Iterator[Measured]:
        """One for each candidate, in their order, each as soon as it and those before it are there.

        Raises RequestError for what a worker refuses, for a candidate that several workers were lost with, and where no
        worker can start.
        """
        tasks = [Task(ask=replace(ask, candidates=(candidate,)), judges=judges) for candidate in ask.candidates]
        work = _Work(tasks=tasks, waiting=deque(range(len(tasks))))
        for place in range(len(tasks)):
            while place not in work.found:
                self._turn(work)
            yield work.found.pop(place)

    def close(self) -> None:
        """End the workers."""
        for worker in list(self._seats):
            self._pool.stop(worker)
        self._seats.clear()

    def _turn(self, work: _Work) -> None:
        self._grow(work)
        for worker, seat in self._seats.items():
            self._feed(worker, seat, work)
        for worker, event in self._pool.events(_LOOK_S):
            if worker in self._seats:
                self._handle(worker, self._seats[worker], event)
            if worker in self._seats:
                self._feed(worker, self._seats[worker], work)
        n_ready = sum(seat.ready for seat in self._seats.values())
        if n_ready != self._n_ready:
            self._n_ready = n_ready
            self._works(n_ready)

    def _grow(self, work: _Work) -> None:
        busy = sum(seat.holds is not None for seat in self._seats.values())
        wanted, now = busy + len(work.waiting), time.monotonic()
        if wanted <= len(self._seats) or (self._seats and now - self._grown < _GROW_S):
            return
        self._grown = now
        for _ in range(min(wanted, self._pool.room()) - len(self._seats)):
            self._seats[self._pool.start()] = _Seat()

    def _feed(self, worker: int, seat: _Seat, work: _Work) -> None:
        if seat.ready and seat.holds is None and work.waiting:
            place = work.waiting.popleft()
            seat.holds = work, place
            self._pool.send(worker, work.tasks[place])

    def _handle(self, worker: int, seat: _Seat, event: Event) -> None:
        if isinstance(event, Loss):
            self._lose(worker, event)
        elif isinstance(event, Facts):
            check_versions(event, self._versions)
            seat.facts = event
            self._pool.send(worker, None)
        else:
            self._take(worker, seat, event)

    def _take(self, worker: int, seat: _Seat, answer: Answer) -> None:
        if answer.measured is not None and seat.holds is not None:
            work, place = seat.holds
            work.found[place], seat.holds = answer.measured, None
        if answer.leaving:
            self._pool.stop(worker)
            self._lose(worker, Loss(reason=answer.leaving, blame=answer.blame))
        elif not seat.ready and seat.facts is not None:
            seat.ready, self._failed_starts = True, 0
            self.environment = self.environment or seat.facts.environment
            self._says(f"worker {worker} measures: {seat.facts.host}:{seat.facts.pid}")

    def _lose(self, worker: int, loss: Loss) -> None:
        seat = self._seats.pop(worker)
        again = "" if seat.holds is None else "; its candidate is measured again"
        self._says(f"worker {worker} was lost: {loss.reason}{again}")
        if seat.holds is not None:
            work, place = seat.holds
            work.strikes[place] += loss.blame
            if work.strikes[place] >= STRIKES:
                raise RequestError(_killer(work.tasks[place].ask, loss))
            work.waiting.appendleft(place)
        elif not seat.ready and loss.blame:
            self._failed_starts += 1
            others = sum(not other.ready for other in self._seats.values())
            if self._failed_starts >= _STARTS * (1 + others):
                raise RequestError(
                    f"{self._failed_starts} workers could not start and load the model; the last one said: "
                    f"{loss.reason}"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledEvaluator:
    """An `Evaluator` over workers, which several may share. judges: as in `Task`."""

    workers: Workers
    judges: bool = False

    def measure(self, ask: Ask) -> Iterator[Measured]:
        """See `Workers.measure`."""
        return self.workers.measure(ask, judges=self.judges)


def _killer(ask: Ask, loss: Loss) -> str:
    (candidate,) = ask.candidates
    # A candidate is only numbers in a RoPE: where it is no number's fault, a loss of NaN would be a wrong result.
    return (
        f"candidate {candidate.key[:8]} ('{candidate.origin}'): {STRIKES} workers were lost while they measured its "
        f"{ask.measure.replace('_', ' ')} on {ask.draw.n_documents} documents of {ask.draw.seq_len} tokens; the last: "
        f"{loss.reason}: what was measured is kept; a worker may need more memory, or a smaller batch_tokens under "
        "[objective]"
    )

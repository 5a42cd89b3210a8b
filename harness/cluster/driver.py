"""The one process that decides, and writes the store: it feeds the workers of a pool and records what they answer."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.answering import given_up
from harness.cluster.recording import Recorder
from harness.cluster.schedule import STRIKES, Scheduler, Work
from harness.cluster.worker import Facts, Order, Step, source_changed, versions_under
from harness.errors import RequestError
from harness.interpreters import Interpreter
from harness.plan import PlannedCell
from harness.runner import Progress
from harness.samples import SampleCache
from harness.status import WorkerRow
from harness.store import Store

_SHOW_S = 1.0
_LOOK_S = 0.2  # between two looks for work that an idle worker could take over
_STARTS = 3  # times that each worker that starts may be lost before any says who it is
_GROW_S = 1.0  # between two looks for room; doubled by each worker in a row that was lost before it answered anything
_MOST_USELESS = 6  # of those


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A worker is gone. blame: it was the process, not its machine."""

    reason: str
    blame: bool = True


Event = Facts | Step | Loss


class Pool(Protocol):
    """Where workers live. A worker that starts says its facts; each `send` is answered by one step, in order."""

    def room(self) -> int:
        """How many workers there is room for, those that are there included."""
        ...

    def start(self, interpreter: Interpreter | None) -> int:
        """A new worker, in the environment of an interpreter or, for None, the driver's."""
        ...

    def stop(self, worker: int) -> None: ...  # noqa: D102
    def send(self, worker: int, order: Order | None, drops: Sequence[str]) -> None: ...  # noqa: D102
    def events(self, timeout_s: float) -> Sequence[tuple[int, Event]]: ...  # noqa: D102


@dataclass(kw_only=True)
class _Seat:
    """A worker as the driver sees it. n_sent: steps without an answer so far."""

    interpreter: Interpreter | None = None
    facts: Facts | None = None
    n_sent: int = 0
    n_done: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def environment(self) -> str:
        """As its work names it."""
        return _environment(self.interpreter)


def works(todo: Sequence[PlannedCell]) -> list[Work]:
    """Cells as they are scheduled."""
    return [
        Work(
            key=planned.cell.key,
            group=(planned.cell.model, planned.cell.method_label),
            n_samples=planned.cell.n_samples,
            cost=planned.cell.seq_len,
            environment=_environment(planned.method.interpreter),
        )
        for planned in todo
    ]


class Driver:
    """Runs `todo` on a pool.

    versions: what every worker must have. most: the most workers. ahead: steps a worker has in hand, so that it need
    not wait for an answer. shows: is given a row a worker.
    """

    def __init__(
        self, todo: Sequence[PlannedCell], pool: Pool, store: Store, progress: Progress, *, versions: Mapping[str, str],
        most: int = sys.maxsize, ahead: int = 2, shows: Callable[[Sequence[WorkerRow]], None] | None = None,
    ) -> None:  # fmt: skip
        listed = works(todo)
        self._planned = {work.key: planned for work, planned in zip(listed, todo, strict=True)}
        self._interpreters = {work.environment: p.method.interpreter for work, p in zip(listed, todo, strict=True)}
        self._most = min(most, sum(work.n_samples for work in listed))
        self._scheduler = Scheduler(listed)
        self._pool, self._progress, self._versions = pool, progress, versions
        self._recorder = Recorder(store, progress)
        self._ahead, self._shows = ahead, shows
        self._seats: dict[int, _Seat] = {}
        self._failed_starts = self._useless = 0
        self._grown = self._shown = self._looked = 0.0

    def run(self) -> None:
        """Until every cell is finished. Raises RequestError for what no worker can do."""
        try:
            while not self._scheduler.finished:
                self._grow()
                for worker, event in self._pool.events(_LOOK_S):
                    if worker in self._seats:
                        self._handle(worker, event)
                self._recorder.flush()
                self._look_again()
                self._show()
        finally:
            self._recorder.close()
            for worker in list(self._seats):
                self._pool.stop(worker)

    def _grow(self) -> None:
        now = time.monotonic()
        if now - self._grown < _GROW_S * 2 ** min(self._useless, _MOST_USELESS) and self._seats:
            return
        self._grown = now
        for _ in range(min(self._most, self._pool.room()) - len(self._seats)):
            interpreter = self._interpreters[self._short_of_workers()]
            self._seats[self._pool.start(interpreter)] = _Seat(interpreter=interpreter)

    def _short_of_workers(self) -> str:
        """The environment with most to do for each worker."""
        at = Counter(seat.environment for seat in self._seats.values())
        to_do = self._scheduler.to_give() or {lease.work.environment: 1 for lease in self._scheduler.leases.values()}
        return max(
            to_do or self._interpreters, key=lambda environment: to_do.get(environment, 0) / (1 + at[environment])
        )

    def _handle(self, worker: int, event: Event) -> None:
        seat = self._seats[worker]
        if isinstance(event, Loss):
            self._lose(worker, event)
            return
        if isinstance(event, Facts):
            self._check(event, seat.interpreter)
            seat.facts, self._failed_starts = event, 0
        else:
            seat.n_sent -= 1
            self._take(worker, seat, event)
        if worker in self._seats:
            self._feed(worker, seat)

    def _look_again(self) -> None:
        """Whether there is something for the idle now."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        for worker, seat in list(self._seats.items()):
            if seat.facts is not None and worker not in self._scheduler.leases:
                self._feed(worker, seat)
                if worker not in self._scheduler.leases:
                    self._make_room(worker, seat)

    def _make_room(self, worker: int, seat: _Seat) -> None:
        """An idle worker ends where one in another environment would have something to do."""
        if len(self._interpreters) == 1 or not self._scheduler.to_give():
            return
        if self._short_of_workers() != seat.environment:
            self._pool.stop(worker)
            del self._seats[worker]
            self._scheduler.lost(worker, time.monotonic(), blame=False)
            self._grown = 0.0

    def _take(self, worker: int, seat: _Seat, step: Step) -> None:
        if step.refused:
            raise RequestError(step.refused)
        if step.leaving:
            self._progress.says(f"worker {worker} leaves: {step.leaving}")
            self._pool.stop(worker)
            self._lose(worker, Loss(reason=step.leaving, blame=False))
            return
        lease = self._scheduler.leases.get(worker)
        if lease is None:
            return  # it had nothing to do
        now = time.monotonic()
        if step.engine and seat.facts is not None:
            self._recorder.answered_by(lease.work.key, seat.facts.environment, step.engine)
        if step.ids is not None:
            self._scheduler.began(worker, step.ids, step.hand, now)
        if step.record is not None and self._scheduler.recorded(worker, step.record.example_id, now):
            seat.n_done += 1
            self._useless = 0 if seat.n_done == 1 else self._useless
            self._recorder.add(step.record)
        self._scheduler.holds(worker, step.hand)
        if step.ended:
            self._scheduler.ended(worker)
        self._finish(lease.work.key)

    def _finish(self, key: str) -> None:
        if not self._scheduler.is_open(key) and self._recorder.finish(key):
            del self._planned[key]

    def _feed(self, worker: int, seat: _Seat) -> None:
        """Keep a worker busy: a new order where it has none, else the next steps of the one it has."""
        order = None
        if worker not in self._scheduler.leases:
            lease = self._scheduler.take(worker, time.monotonic(), seat.environment)
            if lease is None:
                return
            planned = self._planned[lease.work.key]
            done = self._recorder.opened(planned, lease.work.key)
            samples = SampleCache().sha256(planned) if seat.interpreter else ""
            order = Order(planned=planned, done=done, only=lease.only, alone=lease.alone, samples=samples)
        while order or seat.n_sent < self._ahead:
            self._pool.send(worker, order, self._scheduler.drops(worker))
            order = None
            seat.n_sent += 1

    def _lose(self, worker: int, loss: Loss) -> None:
        seat = self._seats.pop(worker)
        if seat.facts is None and loss.blame:
            self._failed_starts += 1
            others = sum(other.facts is None for other in self._seats.values())
            if self._failed_starts >= _STARTS * (1 + others):
                raise RequestError(f"{self._failed_starts} workers could not start; the last one said: {loss.reason}")
        if loss.blame:
            self._progress.says(f"worker {worker} was lost: {loss.reason}")
            self._useless += not seat.n_done
        lease = self._scheduler.leases.get(worker)
        try:
            hopeless = self._scheduler.lost(worker, time.monotonic(), blame=loss.blame)
        except RequestError as error:
            raise RequestError(f"{error}; the last one said: {loss.reason}") from None
        for key, example_id in hopeless:
            planned = self._planned[key]
            example = next(e for e in SampleCache().of(planned) if e.id == example_id)
            reason = f"{STRIKES} workers were lost while they answered this sample alone; the last: {loss.reason}"
            self._recorder.add(given_up(planned, example, reason, _tokenizer(planned)))
        if lease is not None:
            self._finish(lease.work.key)

    def _check(self, facts: Facts, interpreter: Interpreter | None) -> None:
        check_versions(facts, self._versions if interpreter is None else versions_under(interpreter))

    def _show(self) -> None:
        now = time.monotonic()
        if self._shows is None or now - self._shown < _SHOW_S:
            return
        self._shown = now
        self._shows([self._row(worker, seat, now) for worker, seat in self._seats.items()])

    def _row(self, worker: int, seat: _Seat, now: float) -> WorkerRow:
        lease = self._scheduler.leases.get(worker)
        doing, left = "starting" if seat.facts is None else "idle", 0
        if lease is not None:
            planned = self._planned.get(lease.work.key)
            path = planned.path if planned else "a cell that another worker finished"
            left = len(lease.left) if lease.left is not None else lease.work.n_samples
            doing = path if lease.begun else f"loading for {path}"
        host = f"{seat.facts.host}:{seat.facts.pid}" if seat.facts else ""
        return WorkerRow(
            name=str(worker), host=host, doing=doing, left=left, n_done=seat.n_done,
            samples_per_s=seat.n_done / max(1e-9, now - seat.since),
        )  # fmt: skip


def _environment(interpreter: Interpreter | None) -> str:
    return "" if interpreter is None else interpreter.path


def check_versions(facts: Facts, wanted: Mapping[str, str]) -> None:
    """Raises RequestError for a worker that has other versions than it should, or other source code."""
    for name, ours in wanted.items():
        if facts.versions.get(name) != ours:
            if name == "Longreach" and source_changed(ours):
                raise RequestError(
                    "Longreach's source was edited since this run began, and a worker that starts now would answer "
                    "with other code: what is recorded is kept; the same command goes on, with the new code"
                )
            raise RequestError(
                f"worker on {facts.host}: {name} is {facts.versions.get(name)} there and {ours} here: "
                "install the same versions on every node"
            )


def _tokenizer(planned: PlannedCell) -> Any:
    from harness.models.loading import load_tokenizer

    return load_tokenizer(planned.model)

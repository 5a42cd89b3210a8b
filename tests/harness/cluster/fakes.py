"""A cluster in this process: workers with a model that answers at once, whose deaths a test decides."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

from harness.cluster.driver import Driver, Event, Loss
from harness.cluster.worker import Facts, Order, Worker
from harness.models.memory import Limits
from harness.plan import PlannedCell, RunSettings
from harness.runner import Answers
from harness.types import Cell, Example, Metric, Output, Score

VERSIONS = {"Python": "3", "torch": "2", "Longreach": "1"}


class Suite:
    """Ten-token questions."""

    def metric(self, task: str) -> Metric:
        return Metric(name="x", kind="binary")

    def score(self, task: str, example: Example, output: Output) -> Score:
        return Score(value=1.0)


class Model:
    """Says its prompt's first token, one sample at a time."""

    regime = "rescaled"
    tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))
    limits = Limits(batch=1, chunk=1)

    def answer(self, example: Example) -> Output:
        return Output(text=str(example.prompt_ids[0]), token_ids=(1,))

    def peak_memory_bytes(self) -> int:
        return 7


def cell(
    task: str = "t", *, n: int = 4, model: str = "m", method: str = "v", seq_len: int = 10, interpreter=None
) -> PlannedCell:
    identity = Cell(
        model=model, model_params={}, method=method, method_params={}, suite="s", suite_params={}, task=task,
        seq_len=seq_len, n_samples=n, seed=0, dtype="float32", attention="auto", versions=(1, 1), artifacts={},
        method_label=method, suite_label="s",
    )  # fmt: skip
    applied = SimpleNamespace(applied=lambda model, seq_len: nullcontext())
    return PlannedCell(
        cell=identity,
        model=SimpleNamespace(label=model),
        method=SimpleNamespace(label=method, method=applied, interpreter=interpreter),
        suite=SimpleNamespace(label="s", suite=Suite()),
    )


def examples(planned: PlannedCell) -> list[Example]:
    task, n = planned.cell.task, planned.cell.n_samples
    return [Example(id=f"{task}-{i}", prompt_ids=[i, 1, 2], max_new_tokens=2, answers=("7",)) for i in range(n)]


class Samples:
    """In place of the cache on disk."""

    def of(self, planned: PlannedCell):
        return iter(examples(planned))

    def ids(self, planned: PlannedCell) -> list[str]:
        return [example.id for example in examples(planned)]

    def sha256(self, planned: PlannedCell) -> str:
        return "abc"


class FakeWorker(Worker):
    """Loads nothing, and has no signals."""

    def __init__(self) -> None:
        super().__init__(RunSettings(), "cpu")
        self._samples, self.loaded = Samples(), []

    def _loaded(self, planned: PlannedCell) -> Answers:
        if self._answers is None or self._request != planned.model.label:
            self._answers, self._request = Answers(model=Model(), run=self._run), planned.model.label
            self.loaded.append(planned.model.label)
        return self._answers


@dataclass
class FakePool:
    """`n` workers. dies: whether, and how, a worker goes with a sample in its hand: None, or a Loss."""

    n: int = 2
    dies: Callable[[int, str], Loss | None] = lambda worker, example_id: None
    versions: dict[str, str] = field(default_factory=lambda: dict(VERSIONS))
    workers: dict[int, FakeWorker] = field(default_factory=dict)
    started: list[FakeWorker] = field(default_factory=list)
    due: deque = field(default_factory=deque)
    hands: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def room(self) -> int:
        return self.n

    def start(self, interpreter=None) -> int:
        worker = len(self.started)
        self.workers[worker] = FakeWorker()
        self.started.append(self.workers[worker])
        environment = {"python": "3"}
        self.due.append((worker, Facts(host="h", pid=worker, versions=self.versions, environment=environment)))
        return worker

    def stop(self, worker: int) -> None:
        self.workers.pop(worker, None)

    def send(self, worker: int, order: Order | None, drops: Sequence[str]) -> None:
        self.due.append((worker, (order, drops)))

    def events(self, timeout_s: float) -> list[tuple[int, Event]]:
        found, due, self.due = [], list(self.due), deque()
        for worker, asked in due:
            if worker not in self.workers:
                continue
            if isinstance(asked, Facts):
                found.append((worker, asked))
                continue
            for example_id in self.hands.get(worker, ()) if asked[0] is None else ():
                if loss := self.dies(worker, example_id):
                    found.append((worker, loss))
                    del self.workers[worker]
                    break
            else:
                step = self.workers[worker].step(*asked)
                self.hands[worker] = step.hand
                found.append((worker, step))
        return found


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.said, self.begun, self.records = [], [], []

    def says(self, what: str) -> None:
        self.said.append(what)

    def started(self, planned: PlannedCell, done: int) -> None:
        self.begun.append((planned.path, done))

    def advanced(self, planned: PlannedCell, record) -> None:
        self.records.append(record)


def drive(todo, store, pool, **options) -> Told:
    told = Told()
    Driver(todo, pool, store, told, versions=VERSIONS, **options).run()
    return told

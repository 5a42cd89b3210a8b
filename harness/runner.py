"""Runs a plan's cells: longest first inside a (model, method), one record a sample, nothing twice."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from harness.answering import DeviceLostError, answer, answer_all, not_attempted, time_limit
from harness.batching import together
from harness.environment import device_facts, gather
from harness.errors import RequestError
from harness.plan import Plan, PlannedCell, RunSettings
from harness.samples import SampleCache
from harness.store import Store
from harness.types import JSON, Example, Record


class Progress(Protocol):
    """Who is told what happens; see `harness.progress`."""

    def says(self, what: str) -> None: ...  # noqa: D102
    def started(self, planned: PlannedCell, done: int) -> None: ...  # noqa: D102
    def advanced(self, planned: PlannedCell, record: Record) -> None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to: cells finished now and before, and samples that failed in any of them."""

    n_cells: int
    n_samples: int
    n_failed: int


def unfinished(plan: Plan, store: Store, cells: Iterable[PlannedCell]) -> list[PlannedCell]:
    """The cells that still have samples to run, in the order they are run."""
    todo = [planned for planned in cells if not store.is_finished(planned.cell.key)]
    models = [id(request) for request in plan.models]
    methods = [planned.label for planned in plan.methods]
    return sorted(
        todo, key=lambda p: (models.index(id(p.model)), methods.index(p.method.label), -p.cell.seq_len)
    )  # the sort is stable: the preset's order decides the rest


def check_lengths(cells: Sequence[PlannedCell]) -> None:
    """Raises RequestError for a cell too short for its task's fixed text. Loads tokenizers, no weights."""
    from harness.models.loading import load_tokenizer

    tokenizers: dict[str, Any] = {}
    shortest: dict[tuple[str, str, str], int] = {}
    for planned in cells:
        cell = planned.cell
        if cell.model not in tokenizers:
            tokenizers[cell.model] = load_tokenizer(planned.model)
        key = (cell.model, cell.suite_label, cell.task)
        if key not in shortest:
            shortest[key] = planned.suite.suite.shortest(cell.task, tokenizers[cell.model])
            _check_backend(planned, shortest[key], tokenizers[cell.model])
        if cell.seq_len < shortest[key]:
            raise RequestError(
                f"suite '{cell.suite_label}', task '{cell.task}': seq_len = {cell.seq_len} is shorter than its fixed "
                f"text: with the tokenizer of {cell.model} it needs at least {shortest[key]} tokens"
            )


def _check_backend(planned: PlannedCell, seq_len: int, tokenizer: Any) -> None:
    """Raises RequestError for a task that the model's backend cannot answer."""
    if planned.model.backend == "vllm":
        from harness.models.vllm.check import check_generates

        check_generates(planned.suite, planned.cell.task, seq_len=seq_len, seed=planned.cell.seed, tokenizer=tokenizer)


def check_machine(cells: Sequence[PlannedCell], device: str, n_devices: int = 1) -> None:
    """Raises RequestError for a model that the devices cannot hold, or an attention that they do not have."""
    from harness.models import backends, loading

    for request in {id(planned.model): planned.model for planned in cells}.values():
        backends.check_machine(request, loading.check_device(device), n_devices)


def run(
    plan: Plan,
    store: Store,
    cells: Sequence[PlannedCell],
    *,
    device: str,
    progress: Progress,
    restart: Callable[[], object] | None = None,
) -> None:
    """Run the unfinished cells. Each sample's record is on disk as soon as its answer is there.

    restart: what is done when a GPU is lost; by default this process begins anew with the same command, and goes on
    behind the samples that are recorded.
    """
    from harness.models.backends import close, load

    todo = unfinished(plan, store, cells)
    samples = SampleCache()
    for request in plan.models:
        ours = [planned for planned in todo if planned.model is request]
        if not ours:
            continue
        progress.says("building samples")
        samples.prepare(ours)
        progress.says(f"loading {request.label}")
        model = load(request, device=device, may_offload=plan.run.kv_offload, n_devices=plan.run.n_devices)
        work = _Work(
            answers=Answers(model=model, run=plan.run),
            samples=samples,
            store=store,
            progress=progress,
            environment={**gather(), **device_facts(device, plan.run.n_devices)},
        )
        try:
            for planned in ours:
                work.cell(planned)
        except DeviceLostError:
            (restart or _restart)()
            return
        finally:
            close(model)
        del model, work


def outcome(store: Store, cells: Sequence[PlannedCell]) -> Outcome:
    """How many samples of these cells are recorded, and how many of those failed."""
    records = [record for planned in cells for record in store.records(planned.cell.key)]
    return Outcome(
        n_cells=len(cells), n_samples=len(records), n_failed=sum(record.status != "ok" for record in records)
    )


@dataclass(kw_only=True)
class Answers:
    """A model's records. `too_long`: the shortest sample that ran out of memory, by method and suite."""

    model: Any
    run: RunSettings
    too_long: dict[tuple[str, str], int] = field(default_factory=dict)

    def groups(self, planned: PlannedCell, examples: Iterable[Example]) -> Iterator[list[Example]]:
        """Samples of a cell in the groups, and the order, in which they are answered."""
        return together(examples, planned.method.method, getattr(self.model, "rope", None))

    def records(self, planned: PlannedCell, group: Sequence[Example]) -> Iterator[Record]:
        """Records of a group. One that ran out of memory stops all that are not shorter."""
        key, n_tokens = (planned.cell.method_label, planned.cell.suite_label), {e.id: e.n_tokens for e in group}
        left = list(group)
        while left:
            limit = self.too_long.get(key, sys.maxsize)
            for example in (example for example in left if example.n_tokens >= limit):
                yield not_attempted(planned, example, limit, self.model)
            left = [example for example in left if example.n_tokens < limit]
            for record in answer_all(planned, left, self.model, self.run):
                left = [example for example in left if example.id != record.example_id]
                yield record
                if record.status == "oom":
                    self.too_long[key] = n_tokens[record.example_id]
                    break

    def engine(self, planned: PlannedCell) -> dict[str, JSON]:
        """What a finished cell says of how it was answered."""
        return {"attention": planned.cell.attention, **asdict(self.model.limits)}


@dataclass(kw_only=True)
class _Work:
    """The cells of one model, in this process."""

    answers: Answers
    samples: SampleCache
    store: Store
    progress: Progress
    environment: Mapping[str, JSON]

    def cell(self, planned: PlannedCell) -> None:
        """Answer what has no record yet, then finish the cell."""
        key = planned.cell.key
        done = {record.example_id for record in self.store.records(key)}
        self.progress.started(planned, len(done))
        left = (example for example in self.samples.of(planned) if example.id not in done)
        with self.store.appending(key) as writer:
            for group in self.answers.groups(planned, left):
                for record in self.answers.records(planned, group):
                    writer.append(record)
                    self.progress.advanced(planned, record)
            writer.finish({"environment": self.environment, "engine": self.answers.engine(planned)})


def _restart() -> None:
    """This process with the same command, from its beginning: a lost GPU serves a new one."""
    print("the GPU was lost with a CUDA error: starting again behind what is recorded", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


__all__ = [
    "Answers",
    "Outcome",
    "Progress",
    "answer",
    "check_lengths",
    "check_machine",
    "outcome",
    "run",
    "time_limit",
    "unfinished",
]

"""Runs a plan's cells: longest first inside a (model, method), one record a sample, nothing twice."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from harness.config import Plan, PlannedCell
from harness.environment import device_facts, gather
from harness.errors import RequestError
from harness.excerpt import excerpt
from harness.samples import SampleCache
from harness.store import CellWriter, Store
from harness.types import Example, Output, Record, Score, Status


class SampleTimeoutError(Exception):
    """A sample took longer than the preset allows."""


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
        if cell.seq_len < shortest[key]:
            raise RequestError(
                f"suite '{cell.suite_label}', task '{cell.task}': seq_len = {cell.seq_len} is shorter than its fixed "
                f"text: with the tokenizer of {cell.model} it needs at least {shortest[key]} tokens"
            )


def run(plan: Plan, store: Store, cells: Sequence[PlannedCell], *, device: str, progress: Progress) -> None:
    """Run the unfinished cells. Each sample's record is on disk before the next sample begins."""
    from harness.models.loading import load

    todo = unfinished(plan, store, cells)
    samples = SampleCache()
    for request in plan.models:
        ours = [planned for planned in todo if planned.model is request]
        if not ours:
            continue
        progress.says("building samples")
        samples.prepare(ours)
        progress.says(f"loading {request.label}")
        model = load(request, device=device)
        facts = {"environment": {**gather(), **device_facts(device)}}
        for planned in ours:
            _run_cell(planned, model, samples, store, facts, plan.run.sample_timeout_s, progress)
        del model


def outcome(store: Store, cells: Sequence[PlannedCell]) -> Outcome:
    """How many samples of these cells are recorded, and how many of those failed."""
    records = [record for planned in cells for record in store.records(planned.cell.key)]
    return Outcome(
        n_cells=len(cells), n_samples=len(records), n_failed=sum(record.status != "ok" for record in records)
    )


def _run_cell(
    planned: PlannedCell,
    model: Any,
    samples: SampleCache,
    store: Store,
    facts: dict[str, Any],
    timeout_s: float,
    progress: Progress,
) -> None:
    key = planned.cell.key
    done = {record.example_id for record in store.records(key)}
    progress.started(planned, len(done))
    with store.appending(key) as writer:
        for example in samples.of(planned):
            if example.id not in done:
                _run_sample(planned, example, model, timeout_s, writer, progress)
        writer.finish(facts)


def _run_sample(
    planned: PlannedCell, example: Example, model: Any, timeout_s: float, writer: CellWriter, progress: Progress
) -> None:
    record = answer(planned, example, model, timeout_s)
    writer.append(record)
    progress.advanced(planned, record)


def answer(planned: PlannedCell, example: Example, model: Any, timeout_s: float = 0.0) -> Record:
    """One sample's record: the model's answer under the method, scored, or the reason there is none."""
    cell, suite = planned.cell, planned.suite.suite
    status: Status = "ok"
    output, score, error, regime, length = Output(), None, None, None, example.n_tokens
    started = time.perf_counter()
    try:
        if length > cell.seq_len and not getattr(suite, "exceeds_length", False):
            raise _TooLongError(f"the sample needs {length} tokens, the cell allows {cell.seq_len}")
        with time_limit(timeout_s), planned.method.method.applied(model, seq_len=length):
            regime = model.regime
            output = model.answer(example)
        found = suite.score(cell.task, example, output)
        score = found if isinstance(found, Score) else Score(value=float(found))
        if not 0 <= score.value <= 1:
            raise ValueError(f"the suite scored {score.value}: a score is a fraction in [0, 1]")
    except (RequestError, KeyboardInterrupt):
        raise
    except Exception as raised:
        status, score = _status(raised), None
        error = f"{type(raised).__name__}: {raised}"[:500]
        if status == "oom":
            _free_memory()
    return Record(
        cell_key=cell.key,
        example_id=example.id,
        status=status,
        output=output.text,
        score=None if score is None else score.value,
        error=error,
        regime=regime,
        n_prompt_tokens=len(example.prompt_ids) or sum(len(segment.token_ids) for segment in example.segments),
        n_new_tokens=len(output.token_ids),
        prefill_s=output.prefill_s if status == "ok" else time.perf_counter() - started,
        decode_s=output.decode_s,
        peak_memory_bytes=model.peak_memory_bytes(),
        answers=tuple(example.answers),
        measures={} if score is None else score.measures,
        metadata=example.metadata,
        excerpt=excerpt(example, model.tokenizer),
    )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises SampleTimeoutError in the block after so many seconds; 0 is no limit. Works in the main thread."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise SampleTimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TooLongError(Exception):
    """A sample does not fit its cell's length."""


def _status(error: Exception) -> Status:
    if isinstance(error, _TooLongError):
        return "truncated"
    if isinstance(error, SampleTimeoutError):
        return "timeout"
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or "can't allocate memory" in str(error):
        return "oom"
    return "error"


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()

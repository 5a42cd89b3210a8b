"""Samples to records: a score, or the reason there is none."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness.errors import RequestError
from harness.excerpt import excerpt
from harness.plan import PlannedCell, RunSettings
from harness.types import Example, Output, Record, Regime, Score, Status


class SampleTimeoutError(Exception):
    """A sample took longer than the preset allows."""


class DeviceLostError(Exception):
    """The GPU's context is broken: nothing more can run on it in this process."""


class _TooLongError(Exception):
    """A sample does not fit its cell's length."""


_DEFAULTS = RunSettings()


def answer(planned: PlannedCell, example: Example, model: Any, timeout_s: float = 0.0) -> Record:
    """One sample's record: the model's answer under the method, scored, or the reason there is none."""
    return _answer(planned, example, model, RunSettings(sample_timeout_s=timeout_s))[0]


def answer_all(
    planned: PlannedCell, examples: Sequence[Example], model: Any, run: RunSettings = _DEFAULTS
) -> Iterator[Record]:
    """Records of samples that one RoPE answers, each as soon as it is there.

    What fails together is tried again in halves, down to single samples. Raises DeviceLostError behind the records of
    the samples that the GPU was lost with.
    """
    if not examples:
        return
    alone = len(examples) == 1 or run.sample_timeout_s > 0 or not hasattr(model, "answer_each")
    left = [] if alone else [e for e in examples if not e.segments and not _too_long(planned, e)]
    for example in examples:
        if not any(example is other for other in left):
            record, lost = _answer(planned, example, model, run)
            yield record
            if lost:
                raise DeviceLostError(record.error)
    if left:
        yield from _together(planned, left, model, run)


def _together(planned: PlannedCell, examples: Sequence[Example], model: Any, run: RunSettings) -> Iterator[Record]:
    left, failure = list(examples), None
    try:
        for example, output, regime in _outputs(planned, examples, model, run):
            left = [other for other in left if other is not example]
            yield _scored(planned, example, output, regime, model)
    except (RequestError, KeyboardInterrupt, GeneratorExit):
        raise
    except Exception as raised:
        failure = raised.with_traceback(None)  # its frames hold tensors
    if failure is None:
        return
    if device_lost(failure):
        yield from (_failed(planned, example, failure, model) for example in left)
        raise DeviceLostError(str(failure))
    if _status(failure) == "oom":
        model.limits.batch = max(1, min(model.limits.batch, len(left)) // 2)
        _free_memory()
    half = (len(left) + 1) // 2
    for part in (left[:half], left[half:]):
        if part:
            yield from answer_all(planned, part, model, run)


def not_attempted(planned: PlannedCell, example: Example, n_tokens: int, model: Any) -> Record:
    """The record of a sample that is not shorter than one that ran out of memory."""
    error = f"not attempted: a sample of {n_tokens} tokens of the same model, method and suite ran out of memory"
    return _record(planned, example, model, status="oom", error=error)


def given_up(planned: PlannedCell, example: Example, reason: str, tokenizer: Any) -> Record:
    """The record of a sample that nobody answers, since it takes down the process that tries."""
    return Record(
        cell_key=planned.cell.key,
        example_id=example.id,
        status="error",
        error=reason[:500],
        n_prompt_tokens=_n_prompt_tokens(example),
        answers=tuple(example.answers),
        metadata=example.metadata,
        excerpt=excerpt(example, tokenizer),
    )


def _outputs(
    planned: PlannedCell, examples: Sequence[Example], model: Any, run: RunSettings
) -> Iterator[tuple[Example, Output, Regime]]:
    from harness.models.memory import rows_that_fit

    longest = max(example.n_tokens for example in examples)
    with planned.method.method.applied(model, seq_len=longest):
        regime, n_rows = model.regime, max(1, rows_that_fit(model, longest))
        settled = [_settled(planned, example, run) for example in examples]
        for place, output in model.answer_each(examples, settled, n_rows=n_rows):
            yield examples[place], output, regime


def _answer(planned: PlannedCell, example: Example, model: Any, run: RunSettings) -> tuple[Record, bool]:
    """The record of one sample, and whether the GPU was lost with it."""
    cell, length = planned.cell, example.n_tokens
    regime: Regime | None = None
    started = time.perf_counter()
    settled = _settled(planned, example, run)
    try:
        if _too_long(planned, example):
            raise _TooLongError(f"the sample needs {length} tokens, the cell allows {cell.seq_len}")
        with time_limit(run.sample_timeout_s), planned.method.method.applied(model, seq_len=length):
            regime = model.regime
            output = _within_limits(model, lambda: model.answer(example, settled) if settled else model.answer(example))
    except (RequestError, KeyboardInterrupt):
        raise
    except Exception as raised:
        seconds = time.perf_counter() - started
        record = _failed(planned, example, raised, model, regime=regime, seconds=seconds)
        lost = device_lost(raised)
    else:
        return _scored(planned, example, output, regime, model), False
    if record.status == "oom":  # the error, whose frames hold tensors, is gone by now
        _free_memory()
    return record, lost


def _within_limits(model: Any, call: Callable[[], Output]) -> Output:
    """The answer, with as little memory as its limits can be brought down to."""
    while True:
        try:
            return call()
        except Exception as raised:
            if _status(raised) != "oom" or not hasattr(model, "limits") or not model.limits.relieve():
                raise
        _free_memory()


def _too_long(planned: PlannedCell, example: Example) -> bool:
    outside = getattr(planned.suite.suite, "outside_budget", {})
    return example.n_tokens > planned.cell.seq_len and planned.cell.task not in outside


def _settled(planned: PlannedCell, example: Example, run: RunSettings) -> Callable[[str], bool] | None:
    """Whether a text's score is final, where the suite can tell and the preset lets it."""
    check = getattr(planned.suite.suite, "settled", None)
    if check is None or not run.early_stop or example.segments:
        return None
    return lambda text: bool(check(planned.cell.task, example, text))


def _scored(planned: PlannedCell, example: Example, output: Output, regime: Regime | None, model: Any) -> Record:
    """The record of an answer."""
    regime = output.regime or regime
    try:
        found = planned.suite.suite.score(planned.cell.task, example, output)
        score = found if isinstance(found, Score) else Score(value=float(found))
        if not 0 <= score.value <= 1:
            raise ValueError(f"the suite scored {score.value}: a score is a fraction in [0, 1]")
    except RequestError:
        raise
    except Exception as raised:  # a suite of anybody's
        return _failed(planned, example, raised, model, regime=regime, output=output, seconds=output.prefill_s)
    return _record(
        planned, example, model, output=output, regime=regime, score=score.value, measures=score.measures,
        prefill_s=output.prefill_s,
    )  # fmt: skip


def _failed(
    planned: PlannedCell,
    example: Example,
    raised: Exception,
    model: Any,
    *,
    regime: Regime | None = None,
    output: Output | None = None,
    seconds: float = 0.0,
) -> Record:
    error = f"{type(raised).__name__}: {raised}"[:500]
    return _record(
        planned, example, model, status=_status(raised), error=error, regime=regime, output=output, prefill_s=seconds
    )


def _record(
    planned: PlannedCell, example: Example, model: Any, *, output: Output | None = None, status: Status = "ok",
    **found: Any,
) -> Record:  # fmt: skip
    output = output or Output()
    return Record(
        cell_key=planned.cell.key,
        example_id=example.id,
        status=status,
        output=output.text,
        n_prompt_tokens=_n_prompt_tokens(example),
        n_new_tokens=len(output.token_ids),
        scored=tuple((sum(row), all(greedy)) for row, greedy in zip(output.logprobs, output.greedy, strict=True)),
        stopped=output.stopped,
        attention=output.attention,
        decode_s=output.decode_s,
        peak_memory_bytes=_peak(model),
        answers=tuple(example.answers),
        metadata=example.metadata,
        excerpt=excerpt(example, model.tokenizer),
        **found,
    )


def _n_prompt_tokens(example: Example) -> int:
    return len(example.prompt_ids) or sum(len(segment.token_ids) for segment in example.segments)


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


def _status(error: Exception) -> Status:
    if isinstance(error, _TooLongError):
        return "truncated"
    if isinstance(error, SampleTimeoutError):
        return "timeout"
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or "can't allocate memory" in str(error):
        return "oom"
    return "error"


def device_lost(error: Exception) -> bool:
    """Whether a CUDA context is beyond use; running out of memory leaves it whole."""
    text = str(error)
    return _status(error) == "error" and (
        type(error).__name__ == "AcceleratorError" or "CUDA error" in text or "device-side assert" in text
    )


def _peak(model: Any) -> int:
    try:
        return int(model.peak_memory_bytes())
    except RuntimeError:  # a lost device says nothing
        return 0


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()  # frames of the exception hold tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

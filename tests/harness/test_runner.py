"""Every sample ends as a record with a status, whatever its model does."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from harness.runner import answer, time_limit
from harness.types import Cell, Example, Metric, Output, Score

CELL = Cell(
    model="m",
    model_params={},
    method="vanilla",
    method_params={},
    suite="s",
    suite_params={},
    task="t",
    seq_len=10,
    n_samples=1,
    seed=0,
    dtype="float32",
    attention="sdpa",
    versions=(1, 1),
    artifacts={},
    method_label="v",
    suite_label="s",
)


@dataclass
class Asked:
    version = 1
    scored: object = field(default_factory=lambda: Score(value=1.0, measures={"n": 1}))

    def metric(self, task: str) -> Metric:
        return Metric(name="x", kind="binary")

    def score(self, task: str, example: Example, output: Output):
        return self.scored


class Model:
    regime = "rescaled"
    tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))

    def __init__(self, behave) -> None:
        self._behave = behave

    def answer(self, example: Example) -> Output:
        return self._behave()

    def peak_memory_bytes(self) -> int:
        return 7


def recorded(behave, *, scored=None, timeout_s=0.0, n_prompt=6):
    suite = Asked() if scored is None else Asked(scored=scored)
    planned = SimpleNamespace(
        cell=CELL,
        suite=SimpleNamespace(suite=suite),
        method=SimpleNamespace(method=SimpleNamespace(applied=lambda model, seq_len: nullcontext())),
    )
    example = Example(id="t-0", prompt_ids=range(n_prompt), max_new_tokens=4, answers=("7",))
    return answer(planned, example, Model(behave), timeout_s)


def throwing(error: Exception):
    def behave() -> Iterator[None]:
        raise error

    return behave


def test_a_good_answer():
    record = recorded(lambda: Output(text="7", token_ids=(1,), prefill_s=0.5, decode_s=0.25))
    assert (record.status, record.score, record.output, record.regime) == ("ok", 1.0, "7", "rescaled")
    assert (record.n_prompt_tokens, record.n_new_tokens, record.peak_memory_bytes) == (6, 1, 7)
    assert (record.prefill_s, record.decode_s, record.measures, record.answers) == (0.5, 0.25, {"n": 1}, ("7",))


def test_a_suite_may_return_a_plain_number():
    assert recorded(Output, scored=0.5).score == 0.5


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError("big"), "oom"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
        (RuntimeError("boom"), "error"),
        (FloatingPointError("the logits are not finite"), "error"),
    ],
)
def test_a_failure_is_a_record_with_its_reason_and_no_score(error, status):
    record = recorded(throwing(error))
    assert (record.status, record.score) == (status, None)
    assert record.error == f"{type(error).__name__}: {error}"


def test_a_sample_longer_than_its_cell_is_not_run():
    record = recorded(throwing(AssertionError("was run")), n_prompt=7)
    assert record.status == "truncated"
    assert "needs 11 tokens, the cell allows 10" in record.error


def test_a_protocol_that_counts_no_tokens_may_exceed_its_length(monkeypatch):
    monkeypatch.setattr(Asked, "outside_budget", {"t": "the authors count characters"}, raising=False)
    assert recorded(lambda: Output(text="7", token_ids=(1,)), n_prompt=7).status == "ok"


def test_a_sample_over_its_time_is_stopped():
    record = recorded(lambda: time.sleep(30), timeout_s=0.05)
    assert record.status == "timeout"
    assert "no answer within 0.05 s" in record.error
    with time_limit(0.05):
        pass
    time.sleep(0.1)  # the alarm is off again


@pytest.mark.parametrize("scored", [1.5, -0.1, float("nan")])
def test_a_score_that_is_no_fraction_is_an_error(scored):
    assert recorded(Output, scored=scored).status == "error"


def test_ctrl_c_is_not_a_failed_sample():
    with pytest.raises(KeyboardInterrupt):
        recorded(throwing(KeyboardInterrupt()))

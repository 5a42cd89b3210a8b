"""What becomes of samples that are answered together when some of them, the memory, or the GPU fail."""

import json
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from harness import runner
from harness.answering import DeviceLostError, answer_all
from harness.errors import RequestError
from harness.models.memory import Limits
from harness.plan import RunSettings
from harness.store import Store
from harness.types import Example, Metric, Output, Score
from tests.harness.test_runner import CELL


class Suite:
    version = 1

    def metric(self, task):
        return Metric(name="x", kind="binary")

    def score(self, task, example, output):
        if example.id == "unscorable":
            raise ValueError("no score")
        return Score(value=float(output.text == example.id))

    def settled(self, task, example, text):
        return text == example.id


class Model:
    """Answers a sample with its id. `fails`: id -> the error of any request that holds it.

    room: how many samples fit together; `alone`: whether a single one fits under given limits.
    """

    regime, rope, device = "original", None, SimpleNamespace(type="cpu")
    devices = (device,)
    cache, kv_bytes_per_token = None, 1
    hf = SimpleNamespace(
        config=SimpleNamespace(
            get_text_config=lambda decoder: SimpleNamespace(hidden_size=1, intermediate_size=1)
        ),
        dtype=SimpleNamespace(itemsize=1),
    )  # fmt: skip
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "")

    def __init__(self, fails=(), room=99, alone=lambda limits: True) -> None:
        self.fails, self.room, self.alone = dict(fails), room, alone
        self.limits = Limits(batch=8, chunk=2048)
        self.asked: list[tuple[list[str], int]] = []

    def answer(self, example, settled=None):
        ((_, output),) = self.answer_each([example], [settled], n_rows=1)
        return output

    def answer_each(self, examples, settled, *, n_rows):
        self.asked.append(([example.id for example in examples], n_rows))
        for place, example in enumerate(examples):
            if example.id in self.fails:
                raise self.fails[example.id]
            if min(n_rows, len(examples)) > self.room or not self.alone(self.limits):
                raise MemoryError("no room")
            stopped = "settled" if settled[place] and settled[place](example.id) else "eos"
            yield place, Output(text=example.id, token_ids=(1,), stopped=stopped, attention="flash")

    def peak_memory_bytes(self):
        return 7


def planned(seq_len=10, suite=None):
    return SimpleNamespace(
        cell=CELL if seq_len == 10 else SimpleNamespace(**{**vars(CELL), "key": f"k{seq_len}", "seq_len": seq_len}),
        suite=SimpleNamespace(suite=suite or Suite()),
        method=SimpleNamespace(method=SimpleNamespace(applied=lambda model, seq_len: nullcontext())),
    )


def samples(*names, n_prompt=6):
    return [Example(id=name, prompt_ids=range(n_prompt), max_new_tokens=4) for name in names]


def statuses(records) -> dict[str, str]:
    return {record.example_id: record.status for record in records}


def test_samples_are_answered_together_and_told_one_by_one():
    model = Model()
    records = list(answer_all(planned(), samples("a", "b", "c"), model))
    assert [(r.example_id, r.status, r.score, r.stopped, r.attention) for r in records] == [
        (name, "ok", 1.0, "settled", "flash") for name in "abc"
    ]
    assert model.asked == [(["a", "b", "c"], 8)]


def test_early_stop_can_be_switched_off():
    (record, _) = answer_all(planned(), samples("a", "b"), Model(), RunSettings(early_stop=False))
    assert record.stopped == "eos"


def test_a_sample_that_fails_takes_no_other_with_it():
    model = Model(fails={"c": FloatingPointError("logits that are not finite")})
    records = list(answer_all(planned(), samples(*"abcdef"), model))
    assert statuses(records) == dict.fromkeys("abdef", "ok") | {"c": "error"}
    assert sum("a" in names for names, _ in model.asked) == 1  # what was there is not asked again


def test_a_score_that_fails_is_an_error_of_its_sample():
    records = list(answer_all(planned(), samples("a", "unscorable", "b"), Model()))
    assert statuses(records) == {"a": "ok", "unscorable": "error", "b": "ok"}
    assert len(records) == 3


def test_the_batch_halves_until_it_fits_and_stays_small():
    model = Model(room=2)
    assert set(statuses(answer_all(planned(), samples(*"abcdefgh"), model)).values()) == {"ok"}
    assert model.limits.batch == 2
    model.asked.clear()
    list(answer_all(planned(), samples(*"ijkl"), model))
    assert model.asked == [(list("ijkl"), 2)]


def test_a_single_sample_gets_smaller_chunks_before_it_is_given_up():
    model = Model(alone=lambda limits: limits.chunk <= 1024)
    assert statuses(answer_all(planned(), samples("a"), model)) == {"a": "ok"}
    assert model.limits.chunk == 1024
    model = Model(alone=lambda limits: False)
    assert statuses(answer_all(planned(), samples(*"abc"), model)) == dict.fromkeys("abc", "oom")
    assert (model.limits.chunk, model.limits.batch) == (512, 1)


def test_a_sample_too_long_for_its_cell_leaves_the_others_together():
    model = Model()
    records = list(answer_all(planned(), [*samples("a", "b"), *samples("long", n_prompt=7)], model))
    assert statuses(records) == {"long": "truncated", "a": "ok", "b": "ok"}
    assert model.asked == [(["a", "b"], 8)]


def test_a_wrong_request_ends_the_run():
    with pytest.raises(RequestError):
        list(answer_all(planned(), samples("a", "b"), Model(fails={"a": RequestError("x")})))


def test_a_time_limit_is_kept_by_each_sample_alone():
    model = Model()
    list(answer_all(planned(), samples("a", "b"), model, RunSettings(sample_timeout_s=5)))
    assert model.asked == [(["a"], 1), (["b"], 1)]


def test_a_lost_gpu_marks_what_was_on_it_and_ends_the_work():
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    records = []
    with pytest.raises(DeviceLostError):
        for record in answer_all(planned(), samples(*"abc"), Model(fails={"b": error})):
            records.append(record)
    assert statuses(records) == {"a": "ok", "b": "error", "c": "error"}
    assert "illegal memory access" in records[1].error
    with pytest.raises(DeviceLostError):
        list(answer_all(planned(), samples("b"), Model(fails={"b": error})))


class Progress:
    def says(self, what):
        pass

    def started(self, planned, done):
        pass

    def advanced(self, planned, record):
        pass


@pytest.fixture
def work(tmp_path):
    @contextmanager
    def of(model, lengths):
        store = Store(tmp_path / "run")
        cells = {length: samples(f"a{length}", f"b{length}", n_prompt=length - 4) for length in lengths}
        yield (
            runner._Work(
                answers=runner.Answers(model=model, run=RunSettings()),
                samples=SimpleNamespace(of=lambda p: iter(cells[p.cell.seq_len])),
                store=store,
                progress=Progress(),
                environment={},
            ),
            store,
        )

    return of


def test_what_is_not_shorter_than_what_ran_out_of_memory_is_not_attempted(work):
    model = Model()
    model.alone = lambda limits: len(model.asked[-1][0][0]) < 3 or model.asked[-1][0][0] in ("a20", "b20")
    with work(model, (40, 60, 20)) as (of, store):
        for length in (40, 60, 20):
            of.cell(planned(length))
        records = {length: store.records(f"k{length}") for length in (40, 60, 20)}
    assert [r.status for r in records[40]] == ["oom", "oom"]
    assert records[40][0].error.startswith("MemoryError")
    assert records[40][1].error == (
        "not attempted: a sample of 40 tokens of the same model, method and suite ran out of memory"
    )
    assert [r.status for r in records[60]] == ["oom", "oom"]
    assert all(r.error.startswith("not attempted") for r in records[60])
    assert [r.status for r in records[20]] == ["ok", "ok"]
    assert not any(name.endswith("60") for names, _ in model.asked for name in names)


def test_a_finished_cell_says_how_the_engine_ran(work):
    with work(Model(room=2), (20,)) as (of, store):
        of.cell(planned(20))
        cell = json.loads((store.folder / "cells" / "k20" / "cell.json").read_text())
    assert cell["engine"] == {
        "attention": "sdpa", "batch": 8, "chunk": 2048, "may_offload": False, "kv_offload": False, "graphs": True,
        "drafts": True,
    }  # fmt: skip


def test_a_lost_gpu_starts_the_command_again_behind_what_is_recorded(tmp_path, monkeypatch):
    error = RuntimeError("CUDA error: unspecified launch failure")
    model, restarts = Model(fails={"b20": error}), []
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **options: model)
    cell = planned(20)
    cell.model = request = SimpleNamespace(label="m", backend="transformers")
    plan = SimpleNamespace(models=[request], run=RunSettings(kv_offload=True))
    monkeypatch.setattr(runner, "unfinished", lambda *args: [cell])
    monkeypatch.setattr(
        runner,
        "SampleCache",
        lambda: SimpleNamespace(prepare=lambda cells: None, of=lambda p: iter(samples("a20", "b20", n_prompt=16))),
    )
    store = Store(tmp_path / "run")
    runner.run(plan, store, [cell], device="cpu", progress=Progress(), restart=lambda: restarts.append(1))
    assert restarts == [1]
    assert statuses(store.records("k20")) == {"a20": "ok", "b20": "error"}
    assert not store.is_finished("k20")

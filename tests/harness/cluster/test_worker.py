"""A worker answers its order sample by sample, and only what is still wanted."""

import signal

import pytest

from harness.cluster.worker import Order
from tests.harness.cluster.fakes import FakeWorker, cell

PLANNED = cell(n=5)


@pytest.fixture
def worker():
    before = signal.getsignal(signal.SIGTERM)
    yield FakeWorker()
    signal.signal(signal.SIGTERM, before)


def answered(worker, *, drops=()) -> list[str]:
    """The samples it answers until its order has ended."""
    ids = []
    for _ in range(20):
        step = worker.step(None, drops)
        if step.record is not None:
            ids.append(step.record.example_id)
        if step.ended:
            return ids
        drops = ()
    raise AssertionError("it never ends")


def test_an_order_is_answered_whole(worker):
    step = worker.step(Order(planned=PLANNED))
    assert (step.ids, step.hand, step.ended) == (("t-0", "t-1", "t-2", "t-3", "t-4"), ("t-0",), False)
    assert set(step.engine) >= {"attention", "batch", "chunk"}
    assert answered(worker) == ["t-0", "t-1", "t-2", "t-3", "t-4"]
    assert worker.step() == type(step)()  # nothing more to do


def test_what_is_recorded_or_not_asked_is_left_out(worker):
    assert worker.step(Order(planned=PLANNED, done=frozenset({"t-1"}))).ids == ("t-0", "t-2", "t-3", "t-4")
    worker.step(Order(planned=PLANNED, only=("t-4", "t-2")))
    assert sorted(answered(worker)) == ["t-2", "t-4"]


def test_dropped_samples_are_not_answered(worker):
    worker.step(Order(planned=PLANNED))
    worker.step()
    assert answered(worker, drops=("t-1", "t-4")) == ["t-2", "t-3"]


def test_an_order_of_nothing_ends_at_once(worker):
    assert worker.step(Order(planned=PLANNED, done=frozenset(f"t-{i}" for i in range(5)))).ended
    worker.step(Order(planned=PLANNED, only=("t-1",)))
    assert answered(worker, drops=("t-1",)) == []


def test_the_hand_names_the_next_sample(worker):
    hand = worker.step(Order(planned=PLANNED, alone=frozenset({"t-0"}))).hand
    for _ in range(5):
        step = worker.step()
        assert (step.record.example_id,) == hand
        hand = step.hand
    assert step.ended


def test_a_request_that_cannot_be_is_one_line(worker, monkeypatch):
    from harness.errors import RequestError

    def refuse(planned):
        raise RequestError("model 'm': its weights fill 9 GB")

    monkeypatch.setattr(worker, "_loaded", refuse)
    assert worker.step(Order(planned=PLANNED)).refused == "model 'm': its weights fill 9 GB"

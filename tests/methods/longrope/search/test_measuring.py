"""A worker's side: what it measures is what the evaluator does, and what it has not is said with its place."""

import os
import pickle
import signal
import socket
from dataclasses import replace

import pytest
import torch

from harness.cluster.worker import versions
from harness.errors import RequestError
from methods.longrope.search.config import load_search
from methods.longrope.search.evaluator import Ask
from methods.longrope.search.measuring import Measurer, Setup
from methods.longrope.search.objective import evaluators
from methods.longrope.search.pooled import Answer, Task
from tests.methods.longrope.search.test_config import write_search
from tests.models.conftest import _one_thread  # noqa: F401  a fixture


@pytest.fixture
def plan(tmp_path):
    return load_search(write_search(tmp_path, objective={"kind": "perplexity", "haystacks": ["docs"]}))


@pytest.fixture
def measurer(plan):
    """A worker, its setup as it comes from elsewhere."""
    before = signal.getsignal(signal.SIGTERM)
    yield lambda **changes: Measurer(
        pickle.loads(pickle.dumps(replace(Setup.of(plan), **changes))), device="cpu", n_threads=1
    )
    signal.signal(signal.SIGTERM, before)


def task(plan, measure="loss", split="search", judges=False) -> Task:
    candidates = (plan.problem.yarn(),)
    draw = replace(plan.problem.draw(split), n_documents=2)
    return Task(ask=Ask(candidates=candidates, draw=draw, measure=measure), judges=judges)


def test_a_worker_measures_to_the_bit_what_the_evaluator_does(plan, measurer, tiny_llama):
    worker = measurer()
    assert worker.step(None) == Answer()
    own, judge = evaluators(tiny_llama, plan.objective, target_length=640, seed=3)
    for asked in (task(plan, "gradient"), task(plan, split="test", judges=True)):
        answer = pickle.loads(pickle.dumps(worker.step(pickle.loads(pickle.dumps(asked)))))
        (expected,) = (judge if asked.judges else own).measure(asked.ask)
        assert (answer.measured.loss, answer.measured.losses) == (expected.loss, expected.losses)
        if expected.gradient is not None:
            found = answer.measured.gradient
            assert found.log_rescale_factors_P.tolist() == expected.gradient.log_rescale_factors_P.tolist()
            assert found.log_attention_factor == expected.gradient.log_attention_factor
    assert own is not judge


def test_a_worker_says_who_it_is_and_computes_with_the_threads_it_was_given(measurer):
    facts = measurer().facts()
    assert (facts.host, facts.pid, facts.versions) == (socket.gethostname(), os.getpid(), versions())
    assert facts.environment["threads"] == torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_identity": {}}, "model 'tiny-llama': its "),
        ({"artifacts": {"docs": "0" * 64}}, "objective: its docs is another one there"),
    ],
)
def test_other_files_than_the_search_was_planned_with_are_refused(measurer, changes, says):
    with pytest.raises(RequestError) as refused:
        measurer(**changes).step(None)
    assert str(refused.value).startswith(f"worker on {socket.gethostname()}: {says}")
    assert "give every node the same files" in str(refused.value)


def test_a_worker_that_is_asked_to_stop_ends_what_it_measures(plan, measurer, monkeypatch):
    worker, asked = measurer(), task(plan, split="test")
    worker.step(None)
    evaluator = worker._loaded()[0]
    measure = evaluator.measure

    def interrupted(ask):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(ask)

    monkeypatch.setattr(evaluator, "measure", interrupted)
    last = worker.step(asked)
    assert last.measured is not None
    assert last.leaving == "it was asked to stop (SIGTERM)"
    assert worker.step(asked) == Answer(leaving=last.leaving)


def test_a_worker_whose_gpu_is_lost_leaves_and_its_candidate_may_be_the_reason(plan, measurer, monkeypatch):
    worker = measurer()
    worker.step(None)

    def lost(ask):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(worker._loaded()[0], "measure", lost)
    answer = worker.step(task(plan))
    assert (answer.measured, answer.blame) == (None, True)
    assert answer.leaving.startswith("the GPU was lost: CUDA error")
